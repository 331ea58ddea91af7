// Cases of ends: half-close, close, reset, linger; what each side sees of the other's.
#include "frame.h"

static volatile sig_atomic_t signals;
static void count_signal(int number) { (void)number, signals++; }

static void peer_ends(void) {
    int fd = scripted("send 3\nfin\nnote ends@\n");
    waited("poll", fd, POLLRDHUP);
    received("data", fd, 10, 0);
    received("end", fd, 10, 0);
    received("end-again", fd, 10, 0);
    received("peek", fd, 10, MSG_PEEK);
    polled("poll-after", fd, 0);
    result("send", send(fd, "abcd", 4, MSG_NOSIGNAL));
    result("shutdown", shutdown(fd, SHUT_WR));
    pause_ms(A_MOMENT_MS);
    polled("poll-ended", fd, 0);
    received("recv-ended", fd, 10, 0);
    result("send-ended", send(fd, "x", 1, MSG_NOSIGNAL));
    so_error("so_error", fd);
    say("peer-saw", "%s", ask("told ends@\n"));
}

static void own_end(void) {
    int fd = scripted("note own@\n");
    result("send", send(fd, "abc", 3, 0));
    result("shutdown", shutdown(fd, SHUT_WR));
    say("peer-saw", "%s", ask("told own@\n"));
    waited("poll", fd, POLLRDHUP);
    received("recv", fd, 10, 0);
}

static void own_end_then_data(void) {
    int fd = scripted("ms 300\nsend 5\nms 300\nsend 3\nclose\n");
    result("shutdown", shutdown(fd, SHUT_WR));
    polled("poll", fd, 0);
    result("again", shutdown(fd, SHUT_WR));
    received("data", fd, 8, MSG_WAITALL);
    received("end", fd, 10, 0);
    so_error("so_error", fd);
    result("late", shutdown(fd, SHUT_RDWR));
}

static void deaf(void) {
    int fd = scripted("ms 300\nsend 5\ntake 3\n");
    result("shutdown", shutdown(fd, SHUT_RD));
    polled("poll", fd, 0);
    received("recv", fd, 10, 0);
    result("send", send(fd, "abc", 3, MSG_NOSIGNAL));
    send(fd, "send 2\nms 1500\n", 15, MSG_NOSIGNAL);
    pause_ms(800);
    polled("poll-later", fd, 0);
    received("recv-later", fd, 10, MSG_DONTWAIT);
    received("recv-again", fd, 10, MSG_DONTWAIT);
    result("again", shutdown(fd, SHUT_RD));
}

static void shut_both(void) {
    int fd = scripted("note both@\n");
    result("shutdown", shutdown(fd, SHUT_RDWR));
    polled("poll", fd, 0);
    received("recv", fd, 10, 0);
    result("send", send(fd, "x", 1, MSG_NOSIGNAL));
    say("peer-saw", "%s", ask("told both@\n"));
    pause_ms(A_MOMENT_MS);
    polled("poll-later", fd, 0);
    result("again", shutdown(fd, SHUT_RDWR));
}

static void bad_shutdown(void) {
    int fd = connected(SCRIPT);
    result("how", shutdown(fd, 3));
    result("negative", shutdown(fd, -1));
    result("fresh", shutdown(tcp(), SHUT_WR));
    result("then", shutdown(fd, SHUT_WR));
}

static void shutdown_wakes(void) {
    int fd = scripted("wait\n");
    if (fork() == 0) {
        pause_ms(A_MOMENT_MS);
        shutdown(fd, SHUT_RD);
        _exit(0);
    }
    received("recv", fd, 10, 0);
}

static void reset_idle(void) {
    int fd = scripted("reset\n");
    waited("poll", fd, POLLIN);
    so_error("so_error", fd);
    so_error("so_error-again", fd);
    polled("poll-after", fd, 0);
    received("recv", fd, 10, 0);
    result("send", send(fd, "x", 1, MSG_NOSIGNAL));
}

static void reset_recv(void) {
    int fd = scripted("reset\n");
    waited("poll", fd, POLLIN);
    received("recv", fd, 10, 0);
    received("again", fd, 10, 0);
    so_error("so_error", fd);
}

static void reset_send(void) {
    int fd = scripted("reset\n");
    signal(SIGPIPE, count_signal);
    waited("poll", fd, POLLIN);
    result("first", send(fd, "x", 1, 0));
    result("second", send(fd, "x", 1, 0));
    say("signals", "%d", (int)signals);
    so_error("so_error", fd);
    received("recv", fd, 10, 0);
}

static void reset_waiting(void) {
    int fd = scripted("ms 300\nreset\n");
    received("recv", fd, 10, 0);
    received("again", fd, 10, 0);
}

static void reset_with_data(void) {
    int fd = scripted("send 5\nms 300\nreset\n");
    events(fd, POLLRDHUP, PATIENCE_MS);
    polled("poll", fd, 0);
    received("data", fd, 10, 0);
    received("then", fd, 10, 0);
}

static void reset_half_closed(void) {
    int fd = scripted("ms 300\nreset\n");
    shutdown(fd, SHUT_WR);
    received("recv", fd, 10, 0);
    so_error("so_error", fd);
    polled("poll", fd, 0);
}

static void peer_left_unread(void) {
    int fd = scripted("unread\n");
    result("send", send(fd, "unread bytes", 12, MSG_NOSIGNAL));
    waited("poll", fd, POLLRDHUP);
    received("recv", fd, 10, 0);
    so_error("so_error", fd);
    result("send-after", send(fd, "x", 1, MSG_NOSIGNAL));
}

// The first bytes after the peer's close are answered with a reset.
static void peer_closed_then_send(void) {
    int fd = scripted("close\n");
    signal(SIGPIPE, count_signal);
    waited("poll", fd, POLLRDHUP);
    result("first", send(fd, "x", 1, 0));
    waited("poll-between", fd, POLLERR);
    result("second", send(fd, "x", 1, 0));
    say("signals", "%d", (int)signals);
    received("recv", fd, 10, 0);
}

static void peer_closed(void) {
    int fd = scripted("close\n");
    waited("poll", fd, POLLRDHUP);
    received("recv", fd, 10, 0);
    result("shutdown", shutdown(fd, SHUT_WR));
    pause_ms(A_MOMENT_MS);
    polled("poll-after", fd, 0);
    so_error("so_error", fd);
}

static void close_unread(void) {
    int fd = scripted("send 100\nnote unread@\n");
    waited("poll", fd, POLLIN);
    result("close", close(fd));
    say("peer-saw", "%s", ask("told unread@\n"));
}

static void close_read(void) {
    int fd = scripted("send 10\nnote read@\n");
    received("recv", fd, 10, MSG_WAITALL);
    result("close", close(fd));
    say("peer-saw", "%s", ask("told read@\n"));
}

static void close_unsent(void) {
    enum { SIZE = 400000 };
    int fd = scripted("ms 500\nnote unsent@\n");
    char *bytes = calloc(1, SIZE);
    long total = 0, part;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    while (total < SIZE && (part = send(fd, bytes, SIZE - total, 0)) > 0) total += part;
    result("close", close(fd));
    char expected[64], *answer = ask("told unsent@\n");
    snprintf(expected, sizeof expected, "fin,%ld", total);
    say("peer-saw", "%s", strcmp(answer, expected) ? answer : "all");
}

static void linger_zero(void) {
    int fd = scripted("note linger0@\n");
    struct linger now = {1, 0};
    result("set", setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now));
    result("close", close(fd));
    say("peer-saw", "%s", ask("told linger0@\n"));
}

static void linger_some(void) {
    int fd = scripted("note linger@\n");
    struct linger wait = {1, 5};
    result("set", setsockopt(fd, SOL_SOCKET, SO_LINGER, &wait, sizeof wait));
    result("send", send(fd, "abc", 3, 0));
    result("close", close(fd));
    say("peer-saw", "%s", ask("told linger@\n"));
}

static void linger_before_connect(void) {
    int fd = tcp();
    struct linger now = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    result("connect", dial(fd, SCRIPT));
    tell(fd, "note linger-early@\n");
    result("close", close(fd));
    say("peer-saw", "%s", ask("told linger-early@\n"));
}

static void process_ends(void) {
    if (fork() == 0) {
        scripted("note killed@\n");
        raise(SIGKILL);
    }
    say("peer-saw", "%s", ask("told killed@\n"));
}

static void greeted(void) {
    int fd = connected(GREETING);
    received("hello", fd, 6, MSG_WAITALL);
    result("send", send(fd, "abc", 3, 0));
    received("echo", fd, 3, MSG_WAITALL);
    shutdown(fd, SHUT_WR);
    received("end", fd, 3, 0);
}

const struct test END_CASES[] = {
    {"end.peer-ends", EACH, peer_ends},
    {"end.own-end", EACH, own_end},
    {"end.own-end-then-data", EACH, own_end_then_data},
    {"end.shut-rd", EACH, deaf},
    {"end.shut-both", EACH, shut_both},
    {"end.bad-shutdown", EACH, bad_shutdown},
    {"end.shutdown-wakes", EACH, shutdown_wakes},
    {"end.reset-so_error", EACH, reset_idle},
    {"end.reset-recv", EACH, reset_recv},
    {"end.reset-send", EACH, reset_send},
    {"end.reset-waiting", EACH, reset_waiting},
    {"end.reset-with-data", EACH, reset_with_data},
    {"end.reset-half-closed", EACH, reset_half_closed},
    {"end.peer-left-unread", EACH, peer_left_unread},
    {"end.peer-closed-then-send", EACH, peer_closed_then_send},
    {"end.peer-closed", EACH, peer_closed},
    {"end.close-unread", EACH, close_unread},
    {"end.close-read", EACH, close_read},
    {"end.close-unsent", EACH, close_unsent},
    {"end.linger-0", EACH, linger_zero},
    {"end.linger", EACH, linger_some},
    {"end.linger-early", EACH, linger_before_connect},
    {"end.killed", EACH, process_ends},
    {"end.greeting", EACH, greeted},
    {0},
};
