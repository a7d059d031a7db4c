//! Lists the queues of all devices, or of the named ones, with NAPI instance, binding and lease;
//! then the page pools.
//!
//! ```text
//! cargo run -p netdev --example queues -- eth0
//! ```

#![allow(clippy::print_stdout)]

use netdev::queues::Queue;
use netdev::{Ifindex, Link, Netdev, Result};

fn main() -> Result<()> {
    let mut link = Link::open()?;
    let mut netdev = Netdev::open()?;
    let names: Vec<String> = std::env::args().skip(1).collect();
    let links = match names.is_empty() {
        true => link.list()?,
        false => names
            .iter()
            .map(|name| link.by_name(name))
            .collect::<Result<_>>()?,
    };
    for link in links {
        let place = link.parent.as_deref().unwrap_or("virtual");
        println!("{} {} ({place}), mtu {}", link.ifindex, link.name, link.mtu);
        for queue in netdev.queues(Some(link.ifindex))? {
            println!("  {}", describe(&queue));
        }
        pools(&mut netdev, link.ifindex)?;
    }
    Ok(())
}

fn describe(queue: &Queue) -> String {
    let mut text = format!("{} {}", queue.kind, queue.id);
    if let Some(napi) = queue.napi {
        text += &format!(" napi {napi}");
    }
    if let Some(dmabuf) = queue.dmabuf {
        text += &format!(" dmabuf {dmabuf}");
    }
    if let Some(lease) = queue.lease {
        text += &format!(" leased to ifindex {} queue {}", lease.ifindex, lease.queue);
        if let Some(nsid) = lease.netns_id {
            text += &format!(" of nsid {nsid}");
        }
    }
    text
}

fn pools(netdev: &mut Netdev, of: Ifindex) -> Result<()> {
    for pool in netdev.page_pools(Some(of))? {
        let inflight = pool.inflight.unwrap_or(0);
        let kind = if pool.dmabuf.is_some() {
            "dmabuf"
        } else {
            "pages"
        };
        println!("  page pool {} of {kind}, {inflight} in flight", pool.id);
    }
    Ok(())
}
