// Cases of connect(), bind() and socket().
#include "frame.h"
#include <arpa/inet.h>

static long connect_to(int fd, enum where where, int port) {
    struct address to = address_of(where, port);
    return connect(fd, &to.name, to.length);
}

static long unspec(int fd, socklen_t length) {
    struct address to = {0};
    return connect(fd, &to.name, length);
}

static void finish(int fd) {
    events(fd, POLLOUT, PATIENCE_MS);
}

static void echo(const char *key, int fd) {
    fcntl(fd, F_SETFL, 0);
    tell(fd, "echo\nabc");
    received(key, fd, 3, MSG_WAITALL);
}

static void created(void) {
    int domain = family == V4 ? AF_INET : AF_INET6;
    int fd = tcp();
    so_error("so_error", fd);
    polled("poll", fd, 0);
    name_of("local", fd, false);
    name_of("peer", fd, true);
    received("recv", fd, 10, 0);
    result("send", send(fd, "x", 1, MSG_NOSIGNAL));
    result("shutdown", shutdown(fd, SHUT_RDWR));
    result("accept", accept(fd, NULL, NULL));
    result("flags", fcntl(socket(domain, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP), F_GETFL));
    result("bad-protocol", socket(domain, SOCK_STREAM, IPPROTO_UDP));
    result("bad-type", socket(domain, 77, 0));
}

static void blocking(void) {
    int fd = tcp();
    result("connect", dial(fd, SCRIPT));
    so_error("so_error", fd);
    name_of("local", fd, false);
    name_of("peer", fd, true);
    polled("poll", fd, 0);
    result("again", dial(fd, SCRIPT));
    result("elsewhere", dial(fd, CLOSED));
    so_error("so_error-after", fd);
    echo("echo", fd);
}

static void nonblocking(void) {
    int fd = tcp_nonblocking();
    result("connect", dial(fd, SCRIPT));
    finish(fd);
    polled("poll", fd, 0);
    result("second", dial(fd, SCRIPT));
    result("third", dial(fd, SCRIPT));
    so_error("so_error", fd);
    name_of("peer", fd, true);
    echo("echo", fd);
}

static void nonblocking_by_so_error(void) {
    int fd = tcp_nonblocking();
    result("connect", dial(fd, SCRIPT));
    finish(fd);
    so_error("so_error", fd);
    result("second", dial(fd, SCRIPT));
    result("third", dial(fd, SCRIPT));
}

static void after_failure(int fd) {
    so_error("so_error", fd);
    name_of("local", fd, false);
    name_of("peer", fd, true);
    polled("poll", fd, 0);
    received("recv", fd, 10, MSG_DONTWAIT);
    result("send", send(fd, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT));
    int done = dial(fd, SCRIPT);
    result("retry", done);
    if (done) result("retry-again", dial(fd, SCRIPT));
    echo("echo", fd);
}

// A socket that was shut before it was connected stays shut.
static void shut_before(void) {
    int fd = tcp();
    result("shutdown", shutdown(fd, SHUT_WR));
    result("connect", dial(fd, SCRIPT));
    result("send", send(fd, "x", 1, MSG_NOSIGNAL));
    fd = tcp();
    dial(fd, CLOSED);
    result("failed", shutdown(fd, SHUT_WR));
    polled("poll", fd, 0);
    result("retry", dial(fd, SCRIPT));
    result("send-retry", send(fd, "x", 1, MSG_NOSIGNAL));
}

static void refused(void) {
    int fd = tcp();
    result("connect", dial(fd, CLOSED));
    result("again", dial(fd, CLOSED));
    after_failure(fd);
}

static void refused_poll(void) {
    int fd = tcp_nonblocking();
    result("connect", dial(fd, CLOSED));
    finish(fd);
    polled("poll-first", fd, 0);
    so_error("first", fd);
    so_error("second", fd);
    polled("poll-after", fd, 0);
    fcntl(fd, F_SETFL, 0);
    after_failure(fd);
}

static void refused_connect(void) {
    int fd = tcp_nonblocking();
    result("connect", dial(fd, CLOSED));
    finish(fd);
    result("second", dial(fd, CLOSED));
    so_error("so_error", fd);
}

static void refused_recv(void) {
    int fd = tcp_nonblocking();
    result("connect", dial(fd, CLOSED));
    finish(fd);
    received("first", fd, 10, 0);
    received("second", fd, 10, 0);
    so_error("so_error", fd);
}

static void refused_send(void) {
    int fd = tcp_nonblocking();
    result("connect", dial(fd, CLOSED));
    finish(fd);
    result("first", send(fd, "x", 1, MSG_NOSIGNAL));
    result("second", send(fd, "x", 1, MSG_NOSIGNAL));
    so_error("so_error", fd);
}

static void in_progress(void) {
    int fd = tcp_nonblocking();
    result("connect", dial(fd, SILENT));
    result("again", dial(fd, SILENT));
    so_error("so_error", fd);
    polled("poll", fd, 0);
    name_of("peer", fd, true);
    received("recv", fd, 10, 0);
    result("send", send(fd, "x", 1, MSG_NOSIGNAL));
    result("listen", listen(fd, 1));
    struct address any = address_of(ANY, 0);
    result("bind", bind(fd, &any.name, any.length));
}

static void in_progress_name(void) {
    int fd = tcp_nonblocking();
    result("connect", dial(fd, SILENT));
    name_of("local", fd, false);
}

static void in_progress_shutdown(void) {
    int fd = tcp_nonblocking();
    result("connect", dial(fd, SILENT));
    result("shutdown", shutdown(fd, SHUT_WR));
    polled("poll", fd, 0);
    so_error("so_error", fd);
    result("again", dial(fd, SCRIPT));
}

static void in_progress_unspec(void) {
    int fd = tcp_nonblocking();
    result("connect", dial(fd, SILENT));
    result("unspec", unspec(fd, 16));
    polled("poll", fd, 0);
    so_error("so_error", fd);
    fcntl(fd, F_SETFL, 0);
    result("retry", dial(fd, SCRIPT));
    echo("echo", fd);
}

// Natively the kernel gives up after its retries; TCP_SYNCNT makes that three seconds.
static void timed_out(void) {
    int fd = tcp(), once = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_SYNCNT, &once, sizeof once);
    result("connect", dial(fd, SILENT));
    after_failure(fd);
}

static void timed_out_poll(void) {
    int fd = tcp_nonblocking(), once = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_SYNCNT, &once, sizeof once);
    result("connect", dial(fd, SILENT));
    finish(fd);
    polled("poll", fd, 0);
    so_error("so_error", fd);
}

static void user_timeout(void) {
    int fd = tcp(), soon = 500;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &soon, sizeof soon);
    result("connect", dial(fd, SILENT));
}

static void send_timeout(void) {
    int fd = tcp();
    struct timeval soon = {0, 200000};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof soon);
    result("connect", dial(fd, SILENT));
    result("again", dial(fd, SILENT));
    so_error("so_error", fd);
    polled("poll", fd, 0);
}

static void no_way(enum where where) {
    int fd = tcp();
    result("connect", connect_to(fd, where, SCRIPT));
    after_failure(fd);
    close(fd);
}

static void no_network(void) { no_way(NO_NETWORK); }
static void no_host(void) { no_way(NO_HOST); }
static void denied(void) { no_way(DENIED); }

static void no_way_nonblocking(enum where where) {
    int fd = tcp_nonblocking();
    result("connect", connect_to(fd, where, SCRIPT));
    finish(fd);
    polled("poll", fd, 0);
    so_error("so_error", fd);
    name_of("local", fd, false);
}

static void no_network_nonblocking(void) { no_way_nonblocking(NO_NETWORK); }
static void no_host_nonblocking(void) { no_way_nonblocking(NO_HOST); }
static void denied_nonblocking(void) { no_way_nonblocking(DENIED); }

static void bad_address(void) {
    int fd = tcp();
    struct address to = address_of(PEER, SCRIPT);
    static const int lengths[] = {0, 1, 2, 4, 8, 15, 16, 23, 24, 27, -1, 129};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char key[32];
        if (family == V4 && lengths[i] >= 16 && lengths[i] <= 128) continue;
        if (family != V4 && lengths[i] >= 24 && lengths[i] <= 128) continue;
        snprintf(key, sizeof key, "length%d", lengths[i]);
        result(key, connect(fd, &to.name, lengths[i]));
    }
    result("null", connect(fd, NULL, to.length));
    result("unreadable", connect(fd, (void *)8, to.length));
    to.name.sa_family = family == V4 ? AF_INET6 : AF_INET;
    result("other-family", connect(fd, &to.name, 28));
    to.name.sa_family = AF_UNIX;
    result("unix-family", connect(fd, &to.name, to.length));
    to.name.sa_family = 4711;
    result("no-family", connect(fd, &to.name, to.length));
    result("then", dial(fd, SCRIPT));
}

static void long_address(void) {
    struct address to = address_of(PEER, SCRIPT);
    static const int lengths[] = {28, 64, 109, 110, 111, 128};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char key[32];
        snprintf(key, sizeof key, "length%d", lengths[i]);
        int fd = tcp();
        result(key, connect(fd, &to.name, lengths[i]));
        snprintf(key, sizeof key, "peer%d", lengths[i]);
        name_of(key, fd, true);
        close(fd);
    }
}

static void bad_descriptor(void) {
    struct address to = address_of(PEER, SCRIPT);
    int ends[2];
    if (pipe(ends)) fail("pipe");
    result("closed", connect(4000, &to.name, to.length));
    result("negative", connect(-1, &to.name, to.length));
    result("pipe", connect(ends[0], &to.name, to.length));
    result("path", connect(open("/", O_PATH), &to.name, to.length));
}

static void odd_destination(void) {
    static const char *const v4[] = {"255.255.255.255", "224.0.0.1"};
    for (int i = 0; i < 2; i++) {
        struct address to = address_of(PEER, SCRIPT);
        char text[64];
        snprintf(text, sizeof text, "%s%s", family == MAPPED ? "::ffff:" : "", v4[i]);
        if (family == V4) inet_pton(AF_INET, text, &to.v4.sin_addr);
        else if (family == MAPPED) inet_pton(AF_INET6, text, &to.v6.sin6_addr);
        else inet_pton(AF_INET6, i ? "ff02::1" : "ff0e::1", &to.v6.sin6_addr);
        int fd = tcp();
        result(i ? "multicast" : "broadcast", connect(fd, &to.name, to.length));
    }
    result("port0", dial(tcp(), 0));
}

static void unspec_cases(void) {
    int fd = connected(SCRIPT);
    result("connected", unspec(fd, 16));
    name_of("local", fd, false);
    name_of("peer", fd, true);
    polled("poll", fd, 0);
    received("recv", fd, 10, MSG_DONTWAIT);
    result("send", send(fd, "x", 1, MSG_NOSIGNAL));
    result("twice", unspec(fd, 16));
    result("short", unspec(fd, 2));
    result("too-short", unspec(fd, 1));
    result("retry", dial(fd, SCRIPT));
    name_of("peer-again", fd, true);
    echo("echo", fd);
    fd = tcp();
    result("fresh", unspec(fd, 16));
    result("failing", dial(fd, CLOSED));
    result("failed", unspec(fd, 16));
    result("then", dial(fd, SCRIPT));
}

// The peer of a socket that connects elsewhere sees an end.
static void unspec_resets(void) {
    int fd = scripted("note unspec@\n");
    result("unspec", unspec(fd, 16));
    say("peer-saw", "%s", ask("told unspec@\n"));
}

static void after_shutdown(void) {
    int fd = connected(SCRIPT);
    result("shutdown", shutdown(fd, SHUT_WR));
    result("half", dial(fd, SCRIPT));
    waited("poll", fd, POLLRDHUP);
    result("end", dial(fd, SCRIPT));
    result("both", shutdown(fd, SHUT_RDWR));
    result("last", dial(fd, SCRIPT));
}

static void bind_any(void) {
    int fd = tcp();
    struct address any = address_of(ANY, 0);
    result("bind", bind(fd, &any.name, any.length));
    name_of("bound", fd, false);
    result("twice", bind(fd, &any.name, any.length));
    result("connect", dial(fd, SCRIPT));
    name_of("local", fd, false);
    result("connected", bind(fd, &any.name, any.length));
    echo("echo", fd);
}

static int port_of(int fd) {
    struct address name = {.length = sizeof name.bytes};
    if (getsockname(fd, &name.name, &name.length)) return -1;
    return ntohs(name.name.sa_family == AF_INET ? name.v4.sin_port : name.v6.sin6_port);
}

static void bind_port_kept(void) {
    int fd = tcp();
    struct address any = address_of(ANY, 0);
    result("bind", bind(fd, &any.name, any.length));
    int before = port_of(fd);
    result("connect", dial(fd, SCRIPT));
    say("same-port", "%d", before == port_of(fd));
    close(fd);
    fd = tcp();
    struct address again = address_of(ANY, before);
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    result("bind-again", bind(fd, &again.name, again.length));
}

static void bind_unbound(void) {
    struct address any = address_of(ANY, 0);
    int fd = connected(SCRIPT);
    result("connected", bind(fd, &any.name, any.length));
    fd = tcp();
    dial(fd, CLOSED);
    result("failed", bind(fd, &any.name, any.length));
    result("then", dial(fd, SCRIPT));
}

static void bind_errors(void) {
    int fd = tcp();
    struct address foreign = address_of(NO_HOST, 0), any = address_of(ANY, 0);
    result("foreign", bind(fd, &foreign.name, foreign.length));
    result("short", bind(fd, &any.name, 8));
    result("null", bind(fd, NULL, any.length));
    any.name.sa_family = AF_UNIX;
    result("family", bind(fd, &any.name, any.length));
    int other = tcp();
    struct address taken = address_of(ANY, 0);
    bind(other, &taken.name, taken.length);
    listen(other, 1);
    getsockname(other, &taken.name, &taken.length);
    result("taken", bind(fd, &taken.name, taken.length));
    result("then", dial(fd, SCRIPT));
}

static void listen_after(void) {
    int fd = connected(SCRIPT);
    result("connected", listen(fd, 1));
    result("accept", accept(fd, NULL, NULL));
    result("accept4-flags", accept4(fd, NULL, NULL, 0x10));
    shutdown(fd, SHUT_WR);
    result("half", listen(fd, 1));
    fd = tcp();
    dial(fd, CLOSED);
    result("failed", listen(fd, 1));
    result("connect-listening", dial(fd, SCRIPT));
}

static void v6_only(void) {
    int on = 1, fd = tcp();
    result("set", setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on));
    result("connect", dial(fd, SCRIPT));
    fd = connected(SCRIPT);
    result("late", setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on));
}

const struct test CONNECT_CASES[] = {
    {"socket.fresh", EACH, created},
    {"connect.blocking", EACH, blocking},
    {"connect.nonblocking", EACH, nonblocking},
    {"connect.nonblocking-so_error", EACH, nonblocking_by_so_error},
    {"connect.refused", EACH, refused},
    {"connect.shut-before", EACH, shut_before},
    {"connect.refused-poll", EACH, refused_poll},
    {"connect.refused-connect", EACH, refused_connect},
    {"connect.refused-recv", EACH, refused_recv},
    {"connect.refused-send", EACH, refused_send},
    {"connect.in-progress", EACH, in_progress},
    {"connect.in-progress-name", EACH, in_progress_name},
    {"connect.in-progress-shutdown", EACH, in_progress_shutdown},
    {"connect.in-progress-unspec", EACH, in_progress_unspec},
    {"connect.timed-out", V4, timed_out},
    {"connect.timed-out-poll", V6, timed_out_poll},
    {"connect.user-timeout", V4, user_timeout},
    {"connect.send-timeout", EACH, send_timeout},
    {"connect.no-network", EACH, no_network},
    {"connect.no-host", EACH, no_host},
    {"connect.denied", EACH, denied},
    {"connect.no-network-nonblocking", EACH, no_network_nonblocking},
    {"connect.no-host-nonblocking", EACH, no_host_nonblocking},
    {"connect.denied-nonblocking", EACH, denied_nonblocking},
    {"connect.bad-address", EACH, bad_address},
    {"connect.long-address", EACH, long_address},
    {"connect.bad-descriptor", V4, bad_descriptor},
    {"connect.odd-destination", EACH, odd_destination},
    {"connect.unspec", EACH, unspec_cases},
    {"connect.unspec-resets", V4, unspec_resets},
    {"connect.after-shutdown", EACH, after_shutdown},
    {"bind.any", EACH, bind_any},
    {"bind.port-kept", EACH, bind_port_kept},
    {"bind.late", EACH, bind_unbound},
    {"bind.errors", EACH, bind_errors},
    {"listen.after-connect", EACH, listen_after},
    {"connect.v6-only", V6 | MAPPED, v6_only},
    {0},
};
