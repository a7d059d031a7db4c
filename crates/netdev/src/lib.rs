//! The netdev, ethtool and rtnetlink families: queues, leases, bindings, rings, RSS, links.
