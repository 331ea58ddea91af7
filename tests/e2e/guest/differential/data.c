// Cases of reading and writing: flags, vectors, splices, what blocks and what does not.
#include "frame.h"
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

static volatile sig_atomic_t signals;
static void count_signal(int number) { (void)number, signals++; }

static void fresh_sigpipe(void) {
    signals = 0;
    signal(SIGPIPE, count_signal);
}

static void peek(void) {
    int fd = scripted("send 8\nms 300\nsend 2\nwait\n");
    waited("poll", fd, POLLIN);
    received("peek", fd, 4, MSG_PEEK);
    received("peek-again", fd, 100, MSG_PEEK | MSG_DONTWAIT);
    received("all", fd, 10, MSG_WAITALL);
    received("none", fd, 10, MSG_DONTWAIT);
    received("peek-none", fd, 10, MSG_PEEK | MSG_DONTWAIT);
}

static void wait_all(void) {
    int fd = scripted("send 5\nms 200\nsend 5\nms 200\nsend 3\nclose\n");
    received("whole", fd, 10, MSG_WAITALL);
    received("short", fd, 10, MSG_WAITALL);
    received("end", fd, 10, MSG_WAITALL);
    fd = scripted("send 10\nwait\n");
    waited("poll", fd, POLLIN);
    received("peek-all", fd, 10, MSG_WAITALL | MSG_PEEK);
    received("dont-wait", fd, 20, MSG_WAITALL | MSG_DONTWAIT);
}

static void truncate_flag(void) {
    int fd = scripted("send 20\nwait\n");
    waited("poll", fd, POLLIN);
    char bytes[8] = "-------";
    pause_ms(100);
    result("discard", recv(fd, bytes, 4, MSG_TRUNC));
    say("buffer", "%.7s", bytes);
    result("discard-null", recv(fd, NULL, 4, MSG_TRUNC));
    received("rest", fd, 100, MSG_DONTWAIT);
}

static void urgent_send(void) {
    int fd = scripted("note urgent@\n");
    result("urgent", send(fd, "u", 1, MSG_OOB));
    result("plain", send(fd, "abc", 3, 0));
    close(fd);
    say("peer-saw", "%s", ask("told urgent@\n"));
}

static void urgent_receive(void) {
    int fd = scripted("send 3\noob\nwait\n");
    waited("poll", fd, POLLPRI);
    received("urgent", fd, 1, MSG_OOB);
    received("plain", fd, 10, MSG_DONTWAIT);
    received("none", fd, 1, MSG_OOB);
}

static void urgent_none(void) {
    int fd = scripted("send 3\nwait\n");
    waited("poll", fd, POLLIN);
    received("urgent", fd, 1, MSG_OOB);
    received("plain", fd, 10, 0);
}

static void more(void) {
    int fd = scripted("echo\n");
    result("more", send(fd, "ab", 2, MSG_MORE));
    result("last", send(fd, "cd", 2, 0));
    received("echo", fd, 4, MSG_WAITALL);
}

static void error_queue(void) {
    int fd = scripted("wait\n");
    received("empty", fd, 10, MSG_ERRQUEUE);
    char bytes[10];
    struct iovec part = {bytes, sizeof bytes};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    result("message", recvmsg(fd, &message, MSG_ERRQUEUE));
}

static void zero_copy_unset(void) {
    int fd = scripted("echo\n");
    result("send", send(fd, "ab", 2, MSG_ZEROCOPY));
    received("echo", fd, 2, MSG_WAITALL);
}

static void fast_open(void) {
    struct address to = address_of(PEER, SCRIPT);
    int fd = tcp();
    result("sendto", sendto(fd, "echo\nabc", 8, MSG_FASTOPEN, &to.name, to.length));
    // Programs fall back.
    if (getpeername(fd, &(struct sockaddr){0}, &(socklen_t){0})) dial(fd, SCRIPT), tell(fd, "echo\nabc");
    received("echo", fd, 3, MSG_WAITALL);
    result("connected", sendto(fd, "d", 1, MSG_FASTOPEN, &to.name, to.length));
}

static void fast_open_connect(void) {
    int fd = tcp(), on = 1;
    result("set", setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof on));
    result("connect", dial(fd, SCRIPT));
    result("send", send(fd, "echo\nabc", 8, MSG_NOSIGNAL));
    received("echo", fd, 3, MSG_WAITALL);
}

static void other_flags(void) {
    static const struct {
        const char *name;
        int flag;
    } flags[] = {{"confirm", MSG_CONFIRM}, {"dontroute", MSG_DONTROUTE}, {"eor", MSG_EOR}, {"rst", MSG_RST},
                 {"syn", MSG_SYN},         {"fin", MSG_FIN},             {"batch", 0x40000}, {"probe", MSG_PROXY}};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        int fd = scripted("echo\n");
        char key[32];
        result(flags[i].name, send(fd, "ab", 2, flags[i].flag | MSG_NOSIGNAL));
        snprintf(key, sizeof key, "%s-recv", flags[i].name);
        struct timeval moment = {1, 0};
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &moment, sizeof moment);
        received(key, fd, 2, flags[i].flag);
        close(fd);
    }
}

static void named_send(void) {
    struct address to = address_of(PEER, SCRIPT), closed = address_of(PEER, CLOSED);
    int fd = scripted("echo\n");
    result("same", sendto(fd, "ab", 2, 0, &to.name, to.length));
    result("other", sendto(fd, "cd", 2, 0, &closed.name, closed.length));
    result("short", sendto(fd, "ef", 2, 0, &to.name, 4));
    result("too-long", sendto(fd, "gh", 2, MSG_NOSIGNAL, &to.name, 200));
    struct iovec part = {"ij", 2};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_name = &closed.name, .msg_namelen = closed.length};
    result("message", sendmsg(fd, &message, 0));
    shutdown(fd, SHUT_WR);
    received("echo", fd, 16, MSG_WAITALL);
    result("unconnected", sendto(tcp(), "ab", 2, MSG_NOSIGNAL, &to.name, to.length));
}

static void named_receive(void) {
    int fd = scripted("send 4\nwait\n");
    waited("poll", fd, POLLIN);
    struct address from = {.length = sizeof from.bytes};
    char bytes[4];
    result("recvfrom", recvfrom(fd, bytes, 2, 0, &from.name, &from.length));
    say("length", "%d", from.length);
    struct iovec part = {bytes, 2};
    char control[64];
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_name = from.bytes,
                             .msg_namelen = sizeof from.bytes,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    result("recvmsg", recvmsg(fd, &message, 0));
    say("message", "%d,%zu,%x", message.msg_namelen, message.msg_controllen, message.msg_flags);
}

static void many_messages(void) {
    int fd = scripted("echo\n");
    struct iovec parts[3] = {{"ab", 2}, {"cde", 3}, {"f", 1}};
    struct mmsghdr messages[3] = {0};
    for (int i = 0; i < 3; i++) messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    result("sendmmsg", sendmmsg(fd, messages, 3, 0));
    say("lengths", "%d,%d,%d", messages[0].msg_len, messages[1].msg_len, messages[2].msg_len);
    char bytes[6];
    received("peek", fd, 6, MSG_PEEK | MSG_WAITALL);
    for (int i = 0; i < 3; i++) {
        parts[i] = (struct iovec){bytes + i, i == 2 ? 4 : 1};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    result("recvmmsg", recvmmsg(fd, messages, 3, MSG_WAITFORONE, NULL));
    say("got", "%d,%d,%d", messages[0].msg_len, messages[1].msg_len, messages[2].msg_len);
}

static void vectors(void) {
    int fd = scripted("echo\n");
    struct iovec parts[3] = {{"ab", 2}, {"", 0}, {"cd", 2}};
    result("writev", writev(fd, parts, 3));
    char one[2], two[4];
    received("peek", fd, 4, MSG_PEEK | MSG_WAITALL);
    struct iovec into[2] = {{one, 1}, {two, 3}};
    result("readv", readv(fd, into, 2));
    result("none", writev(fd, parts, 0));
    static struct iovec many[2000];
    result("too-many", writev(fd, many, 2000));
    struct iovec huge = {parts, (size_t)-1};
    result("too-large", writev(fd, &huge, 1));
    result("pwrite", pwrite(fd, "x", 1, 0));
    result("pread", pread(fd, one, 1, 0));
    result("seek", lseek(fd, 0, SEEK_SET));
    result("preadv2", preadv2(fd, into, 1, -1, RWF_NOWAIT));
}

static void nothing(void) {
    int fd = scripted("send 1\nwait\n");
    waited("poll", fd, POLLIN);
    result("send", send(fd, "", 0, 0));
    result("write", write(fd, "", 0));
    result("read", read(fd, NULL, 0));
    received("recv", fd, 0, 0);
    received("then", fd, 10, 0);
    received("recv-empty", fd, 0, MSG_DONTWAIT);
}

static void bad_memory(void) {
    int fd = scripted("send 4\nwait\n");
    waited("poll", fd, POLLIN);
    result("recv", recv(fd, (void *)8, 4, MSG_DONTWAIT));
    result("send", send(fd, (void *)8, 4, MSG_NOSIGNAL));
    result("sendmsg", sendmsg(fd, (void *)8, MSG_NOSIGNAL));
    received("then", fd, 10, MSG_DONTWAIT);
}

static void full(void) {
    int fd = scripted("ms 3000\nnote full@\n");
    fcntl(fd, F_SETFL, O_NONBLOCK);
    static char bytes[65536];
    long total = 0, done = 0;
    for (int idle = 0; idle < 60;)  // the peer's buffer fills a moment later
        if ((done = send(fd, bytes, sizeof bytes, 0)) > 0) total += done, idle = 0;
        else pause_ms(10), idle++;
    done = send(fd, bytes, sizeof bytes, 0);
    result("send", done);
    if (done > 0) total += done;
    polled("full", fd, 0);
    say("took-some", "%d", total > 100000);
    waited("room", fd, POLLOUT);
    done = send(fd, bytes, 100, 0);
    result("then", done);
    close(fd);
    char expected[64];
    snprintf(expected, sizeof expected, "fin,%ld", total + 100);
    char *answer = ask("told full@\n");
    say("peer-saw", "%s", strcmp(answer, expected) ? answer : "all");
}

static void time_limits(void) {
    int fd = scripted("wait\n");
    struct timeval soon = {0, 100000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof soon);
    received("recv", fd, 10, 0);
    static char bytes[1 << 16];
    long done;
    while ((done = send(fd, bytes, sizeof bytes, 0)) > 0) {}
    result("send", done);
}

static void low_water(void) {
    int fd = scripted("send 3\nms 500\nsend 5\nwait\n"), five = 5;
    result("set", setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &five, sizeof five));
    waited("poll", fd, POLLIN);
    received("recv", fd, 10, MSG_PEEK);
}

static void interrupted(void) {
    int fd = scripted("ms 1500\nsend 3\nwait\n");
    struct sigaction action = {.sa_handler = count_signal};
    sigaction(SIGALRM, &action, NULL);
    ualarm(100000, 0);
    received("recv", fd, 10, 0);
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, NULL);
    ualarm(100000, 0);
    received("restarted", fd, 10, 0);
    say("signals", "%d", (int)signals);
}

static void sigpipe(void) {
    fresh_sigpipe();
    int fd = scripted("wait\n");
    shutdown(fd, SHUT_WR);
    result("write", write(fd, "x", 1));
    result("send", send(fd, "x", 1, 0));
    result("quiet", send(fd, "x", 1, MSG_NOSIGNAL));
    say("signals", "%d", (int)signals);
    result("unconnected", write(tcp(), "x", 1));
    say("signals-then", "%d", (int)signals);
}

static int file_of(size_t size) {
    int file = memfd_create("file", 0);
    if (ftruncate(file, size)) fail("ftruncate");
    return file;
}

static void send_file(void) {
    int fd = scripted("note file@\n"), file = file_of(100000);
    off_t at = 0;
    long total = 0, done;
    while ((done = sendfile(fd, file, &at, 100000)) > 0) total += done;
    say("sent", "%ld", total);
    result("from-socket", sendfile(file, fd, NULL, 10));
    close(fd);
    say("peer-saw", "%s", ask("told file@\n"));
}

static void splices(void) {
    int fd = scripted("echo\n"), ends[2], others[2];
    if (pipe(ends) || pipe(others)) fail("pipe");
    if (write(ends[1], "abcdef", 6) != 6) fail("write");
    result("out", splice(ends[0], NULL, fd, NULL, 6, SPLICE_F_MORE));
    waited("poll", fd, POLLIN);
    received("peek", fd, 6, MSG_PEEK | MSG_WAITALL);
    result("in", splice(fd, NULL, ends[1], NULL, 4, SPLICE_F_MOVE));
    result("in-rest", splice(fd, NULL, ends[1], NULL, 100, 0));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    result("in-nonblocking", splice(fd, NULL, ends[1], NULL, 100, 0));
    result("tee", tee(fd, ends[1], 10, 0));
    off_t offset = 0;
    result("offset", splice(fd, &offset, ends[1], NULL, 10, 0));
    result("both-sockets", splice(fd, NULL, fd, NULL, 10, 0));
    shutdown(fd, SHUT_WR);
    waited("end", fd, POLLRDHUP);
    result("in-end", splice(fd, NULL, ends[1], NULL, 100, 0));
    signal(SIGPIPE, SIG_IGN);
    result("out-ended", splice(ends[0], NULL, fd, NULL, 6, 0));
}

static void not_a_file(void) {
    int fd = connected(SCRIPT);
    off_t at = 0;
    result("truncate", ftruncate(fd, 0));
    result("sync", fsync(fd));
    result("allocate", fallocate(fd, 0, 0, 10));
    say("map", "%s", mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? error_name(errno) : "mapped");
    result("copy-range", copy_file_range(fd, NULL, file_of(10), &at, 10, 0));
    result("advise", posix_fadvise(fd, 0, 0, POSIX_FADV_NORMAL));
    result("readahead", readahead(fd, 0, 10));
}

static void large(void) {
    int fd = scripted("echo\n");
    enum { SIZE = 1 << 20 };
    char *bytes = malloc(SIZE), *back = malloc(SIZE);
    for (int i = 0; i < SIZE; i++) bytes[i] = i * 7 + i / 251;
    if (fork() == 0) {
        for (long done = 0, part; done < SIZE; done += part)
            if ((part = send(fd, bytes + done, SIZE - done, 0)) < 0) _exit(1);
        shutdown(fd, SHUT_WR);
        _exit(0);
    }
    long total = 0, part;
    while ((part = recv(fd, back + total, SIZE - total, 0)) > 0) total += part;
    say("same", "%d", total == SIZE && !memcmp(bytes, back, SIZE));
    received("end", fd, 1, 0);
}

const struct test DATA_CASES[] = {
    {"data.peek", EACH, peek},
    {"data.waitall", EACH, wait_all},
    {"data.trunc", EACH, truncate_flag},
    {"data.oob-send", EACH, urgent_send},
    {"data.oob-recv", EACH, urgent_receive},
    {"data.oob-none", EACH, urgent_none},
    {"data.more", EACH, more},
    {"data.errqueue", EACH, error_queue},
    {"data.zerocopy-unset", EACH, zero_copy_unset},
    {"data.fastopen", EACH, fast_open},
    {"data.fastopen-connect", EACH, fast_open_connect},
    {"data.flags", EACH, other_flags},
    {"data.sendto", EACH, named_send},
    {"data.recvfrom", EACH, named_receive},
    {"data.mmsg", EACH, many_messages},
    {"data.vectors", EACH, vectors},
    {"data.nothing", EACH, nothing},
    {"data.efault", EACH, bad_memory},
    {"data.full", EACH, full},
    {"data.timeouts", EACH, time_limits},
    {"data.lowat", EACH, low_water},
    {"data.interrupted", EACH, interrupted},
    {"data.sigpipe", EACH, sigpipe},
    {"data.sendfile", EACH, send_file},
    {"data.splice", EACH, splices},
    {"data.not-a-file", EACH, not_a_file},
    {"data.large", EACH, large},
    {0},
};
