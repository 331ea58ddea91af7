//! The kernel's own errnos, in a network namespace that the test makes for itself: routes that say
//! no, and a host that stays silent until the kernel gives up. No packet leaves the namespace.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use outsock_transport::{Destination, DialError, DialRequest, Errno, Transport};
use outsock_transport_direct::Direct;
use socket2::{Domain, Socket, Type};

/// Set in the process that runs inside the namespace.
const INSIDE: &str = "OUTSOCK_TEST_NAMESPACE";

/// Loopback only, the networks reserved for documentation with routes that fail, and a kernel that
/// gives up a connect after one repeated SYN (about 3 s) instead of six.
const PREPARE: &str = "
ip link set lo up &&
ip route add unreachable 198.51.100.0/24 &&
ip route add prohibit 203.0.113.0/24 &&
{ ip -6 route add unreachable 2001:db8::/32 2>/dev/null || true; } &&
echo 1 >/proc/sys/net/ipv4/tcp_syn_retries &&
exec \"$0\" --exact kernel_errnos --nocapture";

#[test]
fn kernel_errnos() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let program = std::env::current_exe().expect("the path of this test");
    let run = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-c", PREPARE])
        .arg(program)
        .env(INSIDE, "1")
        .output();
    let output = match run {
        Ok(output) => output,
        Err(error) => return println_not_run(&format!("no `unshare` program: {error}")),
    };
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !stdout.contains("running 1 test") {
        return println_not_run(&format!("no namespace with routes: {stderr}"));
    }
    assert!(output.status.success(), "inside the namespace:\n{stdout}\n{stderr}");
}

/// Past the capture of the test harness, so that it is seen in a green run too.
fn println_not_run(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "direct kernel_errnos: NOT RUN: {why}");
}

fn inside() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        expect("192.0.2.1:9", DialError::NetworkUnreachable, Errno::ENETUNREACH).await;
        expect("198.51.100.1:9", DialError::HostUnreachable, Errno::EHOSTUNREACH).await;
        expect("203.0.113.1:9", DialError::Os(Errno::EACCES), Errno::EACCES).await;
        if std::path::Path::new("/proc/net/if_inet6").exists() {
            expect("[2001:db8::1]:9", DialError::HostUnreachable, Errno::EHOSTUNREACH).await;
        }
        expect("127.0.0.1:9", DialError::Refused, Errno::ECONNREFUSED).await;
        the_kernel_gives_up().await;
    });
}

async fn expect(to: &str, error: DialError, errno: Errno) {
    let to = Destination::Address(to.parse().expect("an address"));
    let failed = Direct.dial(DialRequest::to(to.clone())).await.expect_err("it must fail");
    assert_eq!((&failed, failed.errno()), (&error, errno), "{to}");
}

/// The timeout of the request is far away: `ETIMEDOUT` is the kernel's.
async fn the_kernel_gives_up() {
    let silent = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    silent.listen(0).expect("the smallest backlog");
    let to = silent.local_addr().expect("its name").as_socket().expect("an IP address");
    let request = DialRequest::to(Destination::Address(to));
    let _full = Direct.dial(request.clone()).await.expect("the backlog takes one");
    let started = Instant::now();
    let error = Direct.dial(request.clone()).await.expect_err("the backlog is full");
    assert_eq!(error, DialError::TimedOut);
    assert!(started.elapsed() < request.timeout / 4, "that was our own timeout");
}
