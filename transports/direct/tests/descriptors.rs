//! No descriptor is left behind. Alone in its process, since it counts all descriptors of it.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::Poll;
use std::time::Duration;

use outsock_transport::{Destination, DialRequest, Transport};
use outsock_transport_direct::Direct;
use socket2::{Domain, Socket, Type};

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("the own descriptors").count()
}

#[tokio::test]
async fn dials_that_fail_or_are_given_up_close_their_sockets() {
    let silent = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    silent.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
    let at = silent.local_addr().expect("its name").as_socket().expect("an IP address");
    let to = DialRequest {
        timeout: Duration::from_millis(1),
        ..DialRequest::to(Destination::Address(at))
    };
    let before = open_descriptors();
    for _ in 0..50 {
        Direct.dial(to.clone()).await.expect_err("nobody listens");
    }
    assert_eq!(open_descriptors(), before, "after refused dials");

    silent.listen(0).expect("the smallest backlog");
    let _full = Direct.dial(DialRequest { timeout: Duration::from_secs(5), ..to.clone() }).await;
    let before = open_descriptors();
    for _ in 0..20 {
        Direct.dial(to.clone()).await.expect_err("the backlog is full");
    }
    assert_eq!(open_descriptors(), before, "after dials that timed out");
    for _ in 0..50 {
        let mut dial = Direct.dial(to.clone());
        let pending = poll_fn(|cx| Poll::Ready(dial.as_mut().poll(cx).is_pending())).await;
        assert!(pending, "the backlog is full");
    }
    assert_eq!(open_descriptors(), before, "after dials that were given up");
}
