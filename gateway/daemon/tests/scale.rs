//! Many connections, and ones that stall: the others do not notice, and nothing grows.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use common::{boot, dial, echo_server, eventually, far_ends, gateway_to, pair};
use outsock_virtual_guest::{Content, Event, Options};

fn raise_descriptor_limit() {
    outsock_device::raise_descriptor_limit().unwrap();
}

#[test]
fn ten_thousand_connections_at_once() {
    raise_descriptor_limit();
    // One thread serves all of them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        runtime.block_on(async {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
    });
    let gateway = gateway_to(port);
    let guest = boot(&gateway);
    let mut connections = Vec::new();
    for batch in 0..100 {
        let dialing: Vec<_> =
            (0..100).map(|_| guest.start_dial(common::address(1)).unwrap()).collect();
        for one in dialing {
            connections.push(one.wait().unwrap_or_else(|errno| panic!("{batch}: {errno}")).0);
        }
    }
    assert_eq!(connections.len(), 10_000);
    for (number, connection) in connections.iter().enumerate() {
        connection.watch(number as u64);
    }
    for (number, mut connection) in connections.iter().enumerate() {
        connection.write_all(&u32::try_from(number).unwrap().to_le_bytes()).unwrap();
    }
    for (number, mut connection) in connections.iter().enumerate() {
        let mut back = [0; 4];
        connection.read_exact(&mut back).unwrap();
        assert_eq!(u32::from_le_bytes(back) as usize, number);
    }
    let mut events: Vec<Event> = Vec::new();
    assert!(guest.poll_events(&mut events, 20_000, Duration::from_secs(1)) > 0);
    let open = gateway.status().unwrap()["guests"][0]["connections"].as_u64();
    assert_eq!(open, Some(10_001), "and the VM RPC stream");
    drop(connections);
    eventually("all are forgotten", || {
        gateway.status().unwrap()["guests"][0]["connections"].as_u64() == Some(1)
    });
    guest.assert_clean();
}

#[test]
fn a_stalled_reader_does_not_stop_the_others() {
    let gateway = gateway_to(echo_server());
    let guest = boot(&gateway);
    let stalled: Vec<_> = (0..20).map(|_| dial(&guest, 1)).collect();
    for connection in &stalled {
        // Until neither side moves: the echo waits for us, the gateway for the echo.
        while connection.try_write(&[1; 65_536]).is_ok() {}
    }
    let mut moving = dial(&guest, 1);
    let payload = vec![3; 100_000];
    for _ in 0..100 {
        let mut writer = moving.try_clone().unwrap();
        let to_send = payload.clone();
        let thread = std::thread::spawn(move || writer.write_all(&to_send).unwrap());
        let mut back = vec![0; payload.len()];
        moving.read_exact(&mut back).unwrap();
        assert!(back == payload);
        thread.join().unwrap();
    }
    guest.assert_clean();
}

/// Idle connections that cannot move must not keep a processor busy. This is not a timing test: a
/// busy loop would use seconds, an idle gateway uses nothing.
#[test]
fn stalled_connections_cost_no_processor() {
    raise_descriptor_limit();
    let (far_port, far_ends) = far_ends();
    let gateway = gateway_to(far_port);
    let guest = boot(&gateway);
    let mut stalled = Vec::new();
    for _ in 0..300 {
        let connection = dial(&guest, 1);
        let far = far_ends.recv_timeout(Duration::from_secs(10)).unwrap();
        far.set_nonblocking(true).unwrap();
        while (&far).write(&[7; 65_536]).is_ok() {}
        while connection.try_write(&[7; 65_536]).is_ok() {}
        stalled.push((connection, far));
    }
    let mut last = gateway.cpu_time().unwrap();
    eventually("a second without work", || {
        std::thread::sleep(Duration::from_secs(1));
        let now = gateway.cpu_time().unwrap();
        let used = now - last;
        last = now;
        used <= Duration::from_millis(20)
    });
    guest.assert_clean();
}

#[test]
fn churn_leaves_nothing_behind() {
    let gateway = gateway_to(echo_server());
    let guest = boot(&gateway);
    let round = || {
        for _ in 0..500 {
            let mut connection = dial(&guest, 1);
            connection.write_all(b"x").unwrap();
            connection.read_exact(&mut [0]).unwrap();
        }
    };
    round();
    eventually("all are forgotten", || {
        gateway.status().unwrap()["guests"][0]["connections"].as_u64() == Some(1)
    });
    let (descriptors, memory) = (gateway.descriptors().unwrap(), gateway.rss_bytes().unwrap());
    for _ in 0..8 {
        round();
    }
    eventually("descriptors are back", || gateway.descriptors().unwrap() <= descriptors);
    let grown = gateway.rss_bytes().unwrap().saturating_sub(memory);
    assert!(grown < 4 << 20, "{grown} bytes after 4,000 connections");
    guest.assert_clean();
}

/// Both directions full at once, small rings: the two sides must not wait for each other.
#[test]
fn full_rings_both_ways_do_not_deadlock() {
    let gateway = gateway_to(echo_server());
    let options = Options { ring_size: 32, ..Options::default() };
    let guest = gateway.boot("web", options).unwrap();
    let connections: Vec<_> = (0..16).map(|_| dial(&guest, 1)).collect();
    let total = 16 << 20;
    let running: Vec<_> = connections
        .iter()
        .map(|c| {
            let receive = c.start_receive(Some(total), Content::Pattern);
            (c.start_send(total, 10_000, Content::Pattern), receive)
        })
        .collect();
    for (send, receive) in running {
        send.wait().unwrap();
        receive.wait().unwrap();
    }
    guest.assert_clean();
}

#[test]
fn idle_connections_are_cheap() {
    let (gateway, guest, connection, far) = pair();
    drop((connection, far));
    let before = gateway.rss_bytes().unwrap();
    let connections: Vec<_> = (0..400).map(|_| dial(&guest, 1)).collect();
    for connection in &connections {
        connection.shutdown(Shutdown::Read).unwrap();
    }
    let each = gateway.rss_bytes().unwrap().saturating_sub(before) / 400;
    // The table's own growth and tokio's are in it; the bench measures the exact figure.
    assert!(each < 16 * 1024, "{each} bytes per idle connection");
}
