// Cases of poll(), select() and epoll: the bits at every phase, and the kinds of registrations.
#include "frame.h"
#include <sys/epoll.h>
#include <sys/select.h>

enum { ALL = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP };

static int set_with(int fd, unsigned events) {
    int set = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {events, {.u64 = 42}};
    if (epoll_ctl(set, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl: %s", error_name(errno));
    return set;
}

// All that comes until `timeout_ms` pass without anything: one word per wake-up, at most four.
static void epolled(const char *key, int set, int timeout_ms) {
    char text[256] = "";
    struct epoll_event event;
    for (int i = 0; i < 4 && epoll_wait(set, &event, 1, timeout_ms) == 1; i++, timeout_ms = 0) {
        if (event.data.u64 != 42) strcat(text, "other-data:");
        strcat(strcat(text, i ? "," : ""), poll_bits(event.events));
    }
    say(key, "%s", text[0] ? text : "none");
}

static void selected(const char *key, int fd, int timeout_ms) {
    fd_set in, out, odd;
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_ZERO(&odd);
    FD_SET(fd, &in);
    FD_SET(fd, &out);
    FD_SET(fd, &odd);
    struct timeval time = {0, timeout_ms * 1000};
    int ready = select(fd + 1, &in, &out, &odd, &time);
    say(key, "%d%s%s%s", ready, FD_ISSET(fd, &in) ? ",r" : "", FD_ISSET(fd, &out) ? ",w" : "",
        FD_ISSET(fd, &odd) ? ",x" : "");
}

static void phases(void) {
    int fd = tcp();
    int set = set_with(fd, ALL);
    polled("fresh", fd, 0), epolled("fresh-epoll", set, 0), selected("fresh-select", fd, 0);
    dial(fd, SCRIPT);
    polled("connected", fd, 0), epolled("connected-epoll", set, 0), selected("connected-select", fd, 0);
    tell(fd, "send 3\n");
    events(fd, POLLIN, PATIENCE_MS);
    polled("data", fd, 0), epolled("data-epoll", set, 0), selected("data-select", fd, 0);
    received("recv", fd, 10, 0);
    polled("empty", fd, 0), selected("empty-select", fd, 0);
    tell(fd, "fin\nms 1000\n");
    events(fd, POLLRDHUP, PATIENCE_MS);
    polled("ended", fd, 0), epolled("ended-epoll", set, 0), selected("ended-select", fd, 0);
    shutdown(fd, SHUT_WR);
    pause_ms(A_MOMENT_MS);
    polled("both", fd, 0), epolled("both-epoll", set, 0), selected("both-select", fd, 0);
}

static void failed(void) {
    int fd = tcp_nonblocking();
    int set = set_with(fd, ALL);
    epolled("fresh", set, 0);
    dial(fd, CLOSED);
    events(fd, POLLOUT, PATIENCE_MS);
    polled("poll", fd, 0), epolled("epoll", set, 0), selected("select", fd, 0);
    so_error("so_error", fd);
    polled("poll-after", fd, 0), epolled("epoll-after", set, 0), selected("select-after", fd, 0);
}

static void connecting(void) {
    int fd = tcp_nonblocking();
    dial(fd, SILENT);
    int set = set_with(fd, ALL);
    polled("poll", fd, 0), epolled("epoll", set, 0), selected("select", fd, 0);
    polled("only-in", fd, 0);
}

static void interest(void) {
    int fd = scripted("send 3\nfin\nwait\n");
    events(fd, POLLRDHUP, PATIENCE_MS);
    static const int wanted[] = {0, POLLIN, POLLOUT, POLLPRI, POLLRDHUP, POLLHUP, POLLERR, POLLRDNORM, POLLWRNORM, POLLRDBAND, POLLWRBAND};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        char key[32];
        snprintf(key, sizeof key, "want-%s", poll_bits(wanted[i]));
        say(key, "%s", poll_bits(events(fd, wanted[i], 0)));
    }
    say("closed", "%s", poll_bits(events(4000, POLLIN, 0)));
}

static void await_bytes(int fd, ssize_t count) {
    char bytes[16];
    for (int i = 0; i < PATIENCE_MS / 10 && recv(fd, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT) < count; i++) pause_ms(10);
}

static void edge(void) {
    int fd = scripted("ms 300\nsend 3\nms 500\nsend 3\nms 500\nfin\nwait\n");
    int set = set_with(fd, ALL | EPOLLET);
    epolled("first", set, 0);
    epolled("none", set, 0);
    // A wake-up for more room may come beside one for data: wait for the data first.
    await_bytes(fd, 3);
    epolled("data", set, 0);
    epolled("unread", set, 0);
    await_bytes(fd, 6);
    epolled("more", set, 0);
    received("recv", fd, 10, 0);
    events(fd, POLLRDHUP, PATIENCE_MS);
    epolled("end", set, PATIENCE_MS);
    epolled("end-again", set, 0);
}

static void edge_early(void) {
    int fd = tcp_nonblocking();
    int set = set_with(fd, ALL | EPOLLET);
    epolled("fresh", set, 0);
    epolled("fresh-again", set, 0);
    dial(fd, SCRIPT);
    epolled("connected", set, PATIENCE_MS);
    epolled("connected-again", set, 0);
    so_error("so_error", fd);
}

static void once(void) {
    int fd = scripted("send 3\nms 300\nsend 3\nwait\n");
    events(fd, POLLIN, PATIENCE_MS);
    int set = set_with(fd, EPOLLIN | EPOLLONESHOT);
    epolled("first", set, PATIENCE_MS);
    epolled("disarmed", set, 600);
    struct epoll_event event = {EPOLLIN | EPOLLONESHOT, {.u64 = 42}};
    result("arm", epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    epolled("again", set, PATIENCE_MS);
    shutdown(fd, SHUT_RDWR);
    epolled("disarmed-end", set, 0);
}

static void once_early(void) {
    int fd = tcp_nonblocking();
    int set = set_with(fd, EPOLLOUT | EPOLLONESHOT);
    epolled("fresh", set, 0);
    dial(fd, SCRIPT);
    epolled("disarmed", set, A_MOMENT_MS);
    struct epoll_event event = {EPOLLOUT | EPOLLONESHOT, {.u64 = 42}};
    result("arm", epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    epolled("armed", set, PATIENCE_MS);
}

static void exclusive(void) {
    int fd = scripted("send 3\nwait\n");
    events(fd, POLLIN, PATIENCE_MS);
    int set = set_with(fd, EPOLLIN | EPOLLEXCLUSIVE);
    epolled("first", set, 0);
    struct epoll_event event = {EPOLLIN, {.u64 = 42}};
    result("modify", epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    result("delete", epoll_ctl(set, EPOLL_CTL_DEL, fd, &event));
}

static void exclusive_early(void) {
    int fd = tcp_nonblocking();
    int set = set_with(fd, EPOLLIN | EPOLLOUT | EPOLLEXCLUSIVE);
    epolled("fresh", set, 0);
    dial(fd, SCRIPT);
    epolled("connected", set, PATIENCE_MS);
    struct epoll_event event = {EPOLLIN, {.u64 = 42}};
    result("modify", epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
}

static void calls(void) {
    int fd = tcp();
    int set = set_with(fd, EPOLLIN), other = set_with(set, EPOLLIN);
    struct epoll_event event = {EPOLLIN, {.u64 = 42}};
    dial(fd, SCRIPT);
    result("add-again", epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    result("modify", epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    tell(fd, "send 1\nwait\n");
    epolled("data", set, PATIENCE_MS);
    say("nested", "%s", poll_bits(events(other, POLLIN, 0)));
    result("delete", epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
    result("delete-again", epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
    result("modify-absent", epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    epolled("deleted", set, 0);
    result("add", epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    epolled("data-again", set, 0);
    close(fd);
    epolled("closed", set, 0);
}

// A registration stays while a duplicate is open; a duplicate's number makes another registration.
static void duplicates(void) {
    int fd = tcp(), copy = dup(fd);
    int set = set_with(fd, EPOLLIN);
    struct epoll_event event = {EPOLLIN, {.u64 = 42}};
    result("add-copy", epoll_ctl(set, EPOLL_CTL_ADD, copy, &event));
    dial(fd, SCRIPT);
    tell(copy, "send 1\nwait\n");
    epolled("both", set, PATIENCE_MS);
    close(fd);
    epolled("after-close", set, 0);
    received("recv", copy, 10, 0);
}

static void two_sets(void) {
    int fd = tcp_nonblocking();
    int one = set_with(fd, EPOLLOUT), two = set_with(fd, EPOLLIN | EPOLLET);
    dial(fd, GREETING);
    epolled("one", one, PATIENCE_MS);
    events(fd, POLLIN, PATIENCE_MS);
    epolled("two", two, PATIENCE_MS);
    epolled("two-again", two, 0);
}

static void waiting_in_poll(void) {
    int fd = scripted("ms 300\nsend 3\nwait\n");
    say("in", "%s", poll_bits(events(fd, POLLIN, PATIENCE_MS)));
    selected("select", fd, 0);
    received("recv", fd, 3, 0);
    say("time", "%s", poll_bits(events(fd, POLLIN, 50)));
}

static void urgent(void) {
    int fd = scripted("oob\nwait\n");
    int set = set_with(fd, ALL);
    say("poll", "%s", poll_bits(events(fd, POLLPRI, 2000)));
    epolled("epoll", set, 0);
    selected("select", fd, 0);
}

const struct test POLL_CASES[] = {
    {"poll.phases", EACH, phases},
    {"poll.failed", EACH, failed},
    {"poll.connecting", EACH, connecting},
    {"poll.interest", EACH, interest},
    {"poll.waiting", EACH, waiting_in_poll},
    {"poll.urgent", V4, urgent},
    {"epoll.edge", EACH, edge},
    {"epoll.edge-early", EACH, edge_early},
    {"epoll.oneshot", EACH, once},
    {"epoll.oneshot-early", EACH, once_early},
    {"epoll.exclusive", EACH, exclusive},
    {"epoll.exclusive-early", EACH, exclusive_early},
    {"epoll.calls", EACH, calls},
    {"epoll.duplicates", EACH, duplicates},
    {"epoll.two-sets", EACH, two_sets},
    {0},
};
