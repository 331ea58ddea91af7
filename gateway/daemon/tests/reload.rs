//! A configuration that changes while the gateway runs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use common::{address, boot, eventually, far_ends, setup};
use outsock_harness::Gateway;
use outsock_virtual_guest::Options;
use outsock_vmrpc::Errno;

fn rewrite(gateway: &Gateway, change: impl FnOnce(String) -> String) {
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    std::fs::write(gateway.config(), change(text)).unwrap();
}

fn reload(gateway: &Gateway) -> Result<String, String> {
    let output = gateway.command("reload").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// What the running gateway says to a reload whose file the command itself does not read first.
fn reload_by_socket(gateway: &Gateway) -> Result<String, String> {
    let mut command = std::process::Command::new(common::BINARY);
    command.args(["reload", "--admin-socket"]).arg(gateway.folder().join("admin.sock"));
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn a_thousand_live_connections_do_not_notice() {
    outsock_device::raise_descriptor_limit().unwrap();
    let (port, far) = far_ends();
    let gateway = common::gateway_to(port);
    let guest = boot(&gateway);
    let mut connections = Vec::new();
    let mut ends = Vec::new();
    for _ in 0..20 {
        let dialling: Vec<_> = (0..50).map(|_| guest.start_dial(address(1)).unwrap()).collect();
        connections.extend(dialling.into_iter().map(|dial| dial.wait().unwrap().0));
        ends.extend((0..50).map(|_| far.recv_timeout(Duration::from_secs(10)).unwrap()));
    }
    // The rule that they came by goes, and its opposite comes.
    rewrite(&gateway, |text| {
        let rules = text.find("[[route]]").unwrap();
        format!("{}[[route]]\nname = \"closed\"\nrefuse = \"EHOSTDOWN\"\n", &text[..rules])
    });
    let begun = Instant::now();
    gateway.signal("HUP").unwrap();
    eventually("the new rule counts", || guest.dial(address(1)).err() == Some(Errno::EHOSTDOWN));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    // Which far end belongs to which connection does not matter: all carry both ways.
    for mut connection in &connections {
        connection.write_all(b"out").unwrap();
    }
    for end in &mut ends {
        let mut out = [0; 3];
        end.read_exact(&mut out).unwrap();
        end.write_all(b"in").unwrap();
    }
    for mut connection in &connections {
        let mut back = [0; 2];
        connection.read_exact(&mut back).unwrap();
    }
    let status = gateway.status().unwrap();
    let listed = status["connections"].as_array().unwrap();
    assert_eq!(listed.len(), 1000);
    assert_eq!(listed[0]["rule"].as_str(), Some("route 1"), "by the rule of its time");
    guest.assert_clean();
}

#[test]
fn connections_of_a_removed_transport_go_on() {
    let (port, far) = far_ends();
    let tables = format!(
        "[[transport]]\nname = \"second\"\nkind = \"direct\"\n\n[[route]]\nto = [\"192.0.2.1/32\"]\n\
         via = \"second\"\ntarget = \"127.0.0.1:{port}\"\n"
    );
    let gateway = setup().guest("web", 3).toml(&tables).start().unwrap();
    let guest = boot(&gateway);
    let mut connection = guest.dial(address(1)).unwrap().0;
    let mut end = far.recv_timeout(Duration::from_secs(10)).unwrap();
    rewrite(&gateway, |text| text[..text.find("[[transport]]").unwrap()].to_owned());
    reload(&gateway).unwrap();
    assert_eq!(guest.dial(address(1)).err(), Some(Errno::EACCES));
    connection.write_all(b"out").unwrap();
    end.read_exact(&mut [0; 3]).unwrap();
    end.write_all(b"in").unwrap();
    connection.read_exact(&mut [0; 2]).unwrap();
    let status = gateway.status().unwrap();
    assert_eq!(status["connections"][0]["transport"].as_str(), Some("second"));
    guest.assert_clean();
}

#[test]
fn a_bad_file_is_refused_with_its_line_and_the_old_rules_stay() {
    let (port, _far) = far_ends();
    let gateway = common::gateway_to(port);
    let guest = boot(&gateway);
    let good = std::fs::read_to_string(gateway.config()).unwrap();
    let lines = good.lines().count();
    for (extra, expected) in [
        (
            "[[route]]\nvia = \"nowhere\"\n",
            format!("gateway.toml:{}: via: there is no transport", lines + 2),
        ),
        ("[[route]]\nprots = [80]\n", format!("gateway.toml:{}: prots: unknown field", lines + 2)),
        ("[[route]\n", format!("gateway.toml:{}: ", lines + 1)),
        (
            "[names]\npool_v4 = \"198.18.0.0/16\"\n",
            "[names] pool_v4 cannot change while".to_owned(),
        ),
        (
            "[[guest]]\nname = \"twin\"\ncid = 9\nsocket = \"/nowhere/at/all.sock\"\n",
            "guest \"twin\": cannot listen on /nowhere/at/all.sock".to_owned(),
        ),
    ] {
        let separator = if good.ends_with('\n') { "" } else { "\n" };
        std::fs::write(gateway.config(), format!("{good}{separator}{extra}")).unwrap();
        let error = reload_by_socket(&gateway).unwrap_err();
        assert!(error.contains(&expected), "{extra}\n -> {error}\n expected {expected}");
        assert!(gateway.log().contains("the old configuration stays"));
        guest.dial(address(1)).unwrap();
    }
    std::fs::write(gateway.config(), good).unwrap();
    assert_eq!(gateway.status().unwrap()["guests"].as_array().unwrap().len(), 1);
    assert!(reload(&gateway).unwrap().starts_with("reloaded: 1 route"));
}

#[test]
fn guests_come_and_go() {
    let (port, _far) = far_ends();
    let gateway = setup()
        .guest("web", 3)
        .guest("old", 4)
        .route("192.0.2.1", 1, &format!("127.0.0.1:{port}"))
        .start()
        .unwrap();
    let web = boot(&gateway);
    let old = gateway.boot("old", Options::default()).unwrap();
    let mut stays = web.dial(address(1)).unwrap().0;
    let mut goes = old.dial(address(1)).unwrap().0;
    let socket = gateway.socket("new");
    rewrite(&gateway, |text| {
        let old = text.find("[[guest]]\nname = \"old\"").unwrap();
        let after = old + text[old..].find("[[route]]").unwrap();
        format!(
            "{}[[guest]]\nname = \"new\"\ncid = 5\nsocket = {socket:?}\n{}",
            &text[..old],
            &text[after..]
        )
    });
    let said = reload(&gateway).unwrap();
    assert_eq!(said.trim(), "reloaded: 1 route, added new, removed old");
    let new = gateway.boot("new", Options::default()).unwrap();
    new.dial(address(1)).unwrap();
    assert!(!gateway.socket("old").exists());
    assert!(goes.read(&mut [0]).is_err() || goes.write(b"x").is_err(), "its device is gone");
    stays.write_all(b"still here").unwrap();
    let names = gateway.status().unwrap();
    assert_eq!(names["guests"][1]["name"].as_str(), Some("new"));
    // A name may not change its device while it is served.
    rewrite(&gateway, |text| text.replace("cid = 5", "cid = 6"));
    let error = reload(&gateway).unwrap_err();
    assert!(error.contains("guest \"new\" has the name, cid or socket of another"), "{error}");
}

#[test]
fn limits_change_for_who_is_connected_already() {
    let (port, _far) = far_ends();
    let gateway = common::gateway_to(port);
    let guest = boot(&gateway);
    let _held: Vec<_> = (0..3).map(|_| guest.dial(address(1)).unwrap()).collect();
    rewrite(&gateway, |text| text.replacen("cid = 3\n", "cid = 3\nconnections_max = 3\n", 1));
    reload(&gateway).unwrap();
    assert_eq!(guest.dial(address(1)).unwrap_err(), Errno::EMFILE);
    rewrite(&gateway, |text| text.replace("connections_max = 3", "connections_max = 4"));
    reload(&gateway).unwrap();
    guest.dial(address(1)).unwrap();
}
