use super::*;

fn parse(line: &str) -> Result<Job, String> {
    let words = std::iter::once("ncdevmem").chain(line.split_whitespace());
    let args = Args::try_parse_from(words).map_err(|error| error.to_string())?;
    args.job().map_err(|error| error.to_string())
}

fn mode(line: &str) -> Mode {
    parse(line).unwrap().mode
}

fn complaint(line: &str) -> String {
    parse(line).unwrap_err()
}

fn address(text: &str) -> Address {
    let address: SocketAddr = text.parse().unwrap();
    Address::new(address.ip(), address.port())
}

fn queues(start: u32, count: u32) -> Option<Queues> {
    let count = NonZeroU32::new(count).unwrap();
    Some(Queues { start, count })
}

/// A server at this address, with all options left out.
fn plain(on: &str) -> Server {
    Server {
        address: address(on),
        client: None,
        queues: None,
        rx_page_size: None,
        validation: None,
        fail_on_linear: false,
        skip_config: false,
    }
}

#[test]
fn the_lines_of_the_kernels_suites() {
    let server = "-l -f eth1 -s 192.0.2.2 -p 5201 -c 192.0.2.1 -v 7";
    assert_eq!(
        mode(server),
        Mode::Server(Server {
            client: Some("192.0.2.1".parse().unwrap()),
            validation: NonZeroU32::new(7),
            ..plain("192.0.2.2:5201")
        })
    );
    let leased = "-l -f nk0 -s 2001:db8::2 -p 5201 -t 1 -q 1 -n -L -b 16384";
    assert_eq!(
        mode(leased),
        Mode::Server(Server {
            queues: queues(1, 1),
            skip_config: true,
            fail_on_linear: true,
            rx_page_size: NonZeroU32::new(16384),
            ..plain("[2001:db8::2]:5201")
        })
    );
    let client = |source: Option<&str>, chunk| {
        Mode::Client(Client {
            server: address("192.0.2.2:5201"),
            source: source.map(address),
            chunk: NonZeroU32::new(chunk),
        })
    };
    let line = "-f nk0 -s 192.0.2.2 -p 5201 -t 0 -q 1 -n -z 3";
    assert_eq!(mode(line), client(None, 3));
    let line = "-f eth1 -s 192.0.2.2 -p 5201 -c 192.0.2.1 -z 0";
    assert_eq!(mode(line), client(Some("192.0.2.1:5201"), 0));
    let probe = Probe {
        queues: None,
        rx_page_size: NonZeroU32::new(16384),
    };
    assert_eq!(mode("-f eth1 -b 16384"), Mode::Probe(probe));
}

#[test]
fn the_forms_of_getopt() {
    let spread = mode("-L -l -f eth1 -s 192.0.2.2 -p 5201 -v 7 -t 2 -q 2");
    for line in [
        "-Ll -feth1 -s192.0.2.2 -p5201 -v7 -t2 -q2",
        "-lLfeth1 -s192.0.2.2 -p5201 -v7 -q2 -t2",
        "-Ll -f eth0 -f eth1 -s 192.0.2.2 -p 1 -p 5201 -v 7 -t 2 -q 2",
        "-Ll -f eth1 -s ::ffff:192.0.2.2 -p 5201 -v 7 -t 2 -q 2",
    ] {
        assert_eq!(mode(line), spread, "{line}");
    }
    let job = parse("-f eth1 -l -s 192.0.2.2 -p 5201 one two").unwrap();
    assert_eq!(job.extra, ["one", "two"]);
}

#[test]
fn bytes_are_read_as_by_strtoul() {
    for (text, value) in [
        ("16384", 16384),
        ("0x4000", 16384),
        ("0X4000", 16384),
        ("040000", 16384),
        ("0", 0),
        ("4294967295", u32::MAX),
    ] {
        assert_eq!(bytes(text), Ok(value), "{text}");
    }
    for text in ["", "x", "0x", "4294967296", "-1", "0x-1", "16k", "09"] {
        assert!(bytes(text).is_err(), "{text}");
    }
    let Mode::Probe(probe) = mode("-f eth1 -b 0") else {
        panic!("no probe")
    };
    assert_eq!(probe.rx_page_size, None);
}

#[test]
fn without_an_address_it_is_the_probe() {
    let probe = |queues| {
        Mode::Probe(Probe {
            queues,
            rx_page_size: None,
        })
    };
    assert_eq!(mode("-f eth1"), probe(None));
    assert_eq!(mode("-f eth1 -l -p 5201"), probe(None));
    assert_eq!(mode("-f eth1 -t 3 -q 2"), probe(queues(3, 2)));
}

#[test]
fn what_is_missing_is_named() {
    for (line, word) in [
        ("", "-f"),
        ("-f eth1 -c 192.0.2.1", "-s"),
        ("-f eth1 -s 192.0.2.1", "-p"),
        ("-f eth1 -l -s 192.0.2.1", "-p"),
        ("-f eth1 -t 1", "-t and -q"),
        ("-f eth1 -l -s 192.0.2.1 -p 1 -q 1", "-t and -q"),
        ("-f eth1 -l -s 192.0.2.1 -p 1 -t 1 -q 0", "-q 0"),
        ("-f eth1 -n", "-n"),
        ("-f eth1 -s 192.0.2.1 -c 2001:db8::1 -p 1", "families"),
        ("-f", "-f"),
        ("-f eth1 -x", "-x"),
        ("-f eth1 --frob", "--frob"),
        ("-f eth1 -s here -p 1", "here"),
        ("-f eth1 -s 192.0.2.1 -p 0", "port"),
        ("-f eth1 -s 192.0.2.1 -p 70000", "port"),
        ("-f eth1 -s 192.0.2.1 -p 1 -z x", "-z"),
        ("-f eth1 -t -1 -q 1", "-1"),
        ("-f eth1 -t 4294967295 -q 1", "too large"),
    ] {
        let complaint = complaint(line);
        assert!(complaint.contains(word), "{line}: {complaint}");
    }
}

#[test]
fn a_link_local_address_is_one_of_the_device() {
    let device = Ifindex::new(7);
    assert_eq!(
        address("[fe80::1]:5201").on(device),
        SocketAddrV6::new("fe80::1".parse().unwrap(), 5201, 0, 7).into()
    );
    assert_eq!(
        address("[2001:db8::1]:5201").on(device).to_string(),
        "[2001:db8::1]:5201"
    );
}
