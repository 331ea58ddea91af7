// Cases of ioctl(), fcntl(), fstat() and /proc: what a descriptor says of itself.
#include "frame.h"
#include <asm/termbits.h>
#include <dirent.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static void number_of(const char *key, int fd, unsigned long request) {
    int value = -1;
    if (ioctl(fd, request, &value)) result(key, -1);
    else say(key, "%d", value);
}

static void queues(void) {
    int fd = tcp();
    number_of("fresh-in", fd, FIONREAD);
    number_of("fresh-out", fd, SIOCOUTQ);
    number_of("fresh-unsent", fd, SIOCOUTQNSD);
    dial(fd, SCRIPT);
    number_of("in", fd, FIONREAD);
    number_of("out", fd, SIOCOUTQ);
    tell(fd, "send 5\n");
    events(fd, POLLIN, PATIENCE_MS);
    pause_ms(50);
    number_of("in-data", fd, FIONREAD);
    number_of("out-taken", fd, SIOCOUTQ);
    number_of("unsent", fd, SIOCOUTQNSD);
    received("recv", fd, 2, 0);
    number_of("in-rest", fd, FIONREAD);
    tell(fd, "fin\nms 1000\n");
    events(fd, POLLRDHUP, PATIENCE_MS);
    number_of("in-ended", fd, FIONREAD);
    drain(fd);
    number_of("in-empty", fd, FIONREAD);
    result("bad-memory", ioctl(fd, FIONREAD, (void *)8));
}

static void out_queue(void) {
    int fd = scripted("wait\n");
    fcntl(fd, F_SETFL, O_NONBLOCK);
    static char bytes[65536];
    for (int idle = 0; idle < 10;)
        if (send(fd, bytes, sizeof bytes, 0) > 0) idle = 0;
        else pause_ms(10), idle++;
    int value = -1;
    result("out", ioctl(fd, SIOCOUTQ, &value));
    say("waits", "%d", value > 0);
}

static void at_mark(void) {
    number_of("fresh", tcp(), SIOCATMARK);
    int fd = scripted("send 3\nwait\n");
    waited("poll", fd, POLLIN);
    number_of("connected", fd, SIOCATMARK);
}

static void modes(void) {
    int fd = tcp(), on = 1, off = 0;
    result("on", ioctl(fd, FIONBIO, &on));
    result("connect", dial(fd, SCRIPT));
    events(fd, POLLOUT, PATIENCE_MS);
    result("flags", fcntl(fd, F_GETFL));
    received("recv", fd, 1, 0);
    result("off", ioctl(fd, FIONBIO, &off));
    result("flags-off", fcntl(fd, F_GETFL));
    result("async", ioctl(fd, FIOASYNC, &on));
    result("flags-async", fcntl(fd, F_GETFL));
    result("set", fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK));
    result("flags-set", fcntl(fd, F_GETFL));
    result("cloexec", ioctl(fd, FIOCLEX));
    result("fd-flags", fcntl(fd, F_GETFD));
    result("direct", fcntl(fd, F_SETFL, O_DIRECT));
}

static volatile sig_atomic_t signals;
static void count_signal(int number) { (void)number, signals++; }

static void signalled(void) {
    int fd = tcp();
    signal(SIGUSR1, count_signal);
    result("owner", fcntl(fd, F_SETOWN, getpid()));
    result("signal", fcntl(fd, F_SETSIG, SIGUSR1));
    result("async", fcntl(fd, F_SETFL, O_ASYNC));
    dial(fd, SCRIPT);
    signals = 0;
    tell(fd, "send 3\nwait\n");
    for (int i = 0; i < PATIENCE_MS / 10 && !signals; i++) usleep(10000);
    say("came", "%d", signals > 0);
    say("owner-kept", "%d", fcntl(fd, F_GETOWN) == getpid());
    say("signal-kept", "%d", fcntl(fd, F_GETSIG) == SIGUSR1);
}

static void owners(void) {
    int fd = connected(SCRIPT), pid = getpid(), got = 0;
    result("setown", ioctl(fd, FIOSETOWN, &pid));
    result("getown", ioctl(fd, FIOGETOWN, &got));
    say("same", "%d", got == pid);
    result("setpgrp", ioctl(fd, SIOCSPGRP, &pid));
    result("getpgrp", ioctl(fd, SIOCGPGRP, &got));
}

static void others(void) {
    int fd = connected(SCRIPT);
    struct termios terminal;
    struct ifreq interface = {.ifr_name = "lo"};
    struct timeval time;
    int value;
    result("tty", ioctl(fd, TCGETS, &terminal));
    say("isatty", "%d", isatty(fd));
    result("lo", ioctl(fd, SIOCGIFFLAGS, &interface));
    result("no-interface", ioctl(fd, SIOCGIFINDEX, &(struct ifreq){.ifr_name = "none"}));
    result("stamp", ioctl(fd, SIOCGSTAMP, &time));
    result("name", ioctl(fd, SIOCGIFNAME, &(struct ifreq){.ifr_ifindex = 1}));
    struct ifconf list = {.ifc_len = 0};
    result("list", ioctl(fd, SIOCGIFCONF, &list));
    result("unknown", ioctl(fd, 0x12345678, &value));
    result("fresh-unknown", ioctl(tcp(), 0x12345678, &value));
}

static void kind_of(const char *key, int fd) {
    struct stat status;
    char path[64], target[64] = "";
    if (fstat(fd, &status)) return result(key, -1);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(path, target, sizeof target - 1);
    say(key, "%o,%ld,%d,%.8s,%d", status.st_mode, (long)status.st_size, (int)status.st_nlink, target,
        length > 8 && strtoul(target + 8, NULL, 10) == status.st_ino);
}

static void kinds(void) {
    int fd = tcp();
    kind_of("fresh", fd);
    dial(fd, SCRIPT);
    kind_of("connected", fd);
    shutdown(fd, SHUT_RDWR);
    kind_of("shut", fd);
}

// What a program could use to know its socket again.
static void identity(void) {
    int fd = tcp();
    struct stat before, after;
    uint64_t first = 0, second = 0;
    socklen_t length = sizeof first;
    fstat(fd, &before);
    result("cookie", getsockopt(fd, SOL_SOCKET, SO_COOKIE, &first, &length));
    dial(fd, SCRIPT);
    fstat(fd, &after);
    getsockopt(fd, SOL_SOCKET, SO_COOKIE, &second, &length);
    say("same-inode", "%d", before.st_ino == after.st_ino);
    say("same-cookie", "%d", first == second);
}

// netstat and ss look there.
static void listed(void) {
    int fd = connected(SCRIPT);
    struct stat status;
    fstat(fd, &status);
    char row[512], wanted[32];
    snprintf(wanted, sizeof wanted, " %lu ", (unsigned long)status.st_ino);
    FILE *table = fopen(family == V4 ? "/proc/self/net/tcp" : "/proc/self/net/tcp6", "r");
    bool found = false;
    while (table && fgets(row, sizeof row, table)) found |= strstr(row, wanted) != NULL;
    say("in-proc-net", "%d", found);
    snprintf(row, sizeof row, "/proc/self/fdinfo/%d", fd);
    say("fdinfo", "%d", access(row, R_OK) == 0);
}

static void xattr_name(void) {
    char name[64] = "";
    int fd = connected(SCRIPT);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_getxattr, path, "system.sockprotoname", name, sizeof name);
    result("length", length);
    say("protocol", "%s", name);
}

static void uring(void) {
    char parameters[128] = {0};
    result("setup", syscall(SYS_io_uring_setup, 4, parameters) >= 0 ? 0 : -1);
}

static void credentials(void) {
    int fd = connected(SCRIPT);
    struct {
        int pid, uid, gid;
    } peer = {7, 7, 7};
    socklen_t length = sizeof peer;
    result("peercred", getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length));
    say("values", "%d,%d,%d,%d", peer.pid, peer.uid, peer.gid, length);
    char text[256];
    length = sizeof text;
    result("peersec", getsockopt(fd, SOL_SOCKET, SO_PEERSEC, text, &length));
    length = sizeof text;
    result("peergroups", getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, text, &length));
}

static void locks(void) {
    int fd = connected(SCRIPT);
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    result("flock", flock(fd, LOCK_SH | LOCK_NB));
    result("setlk", fcntl(fd, F_SETLK, &lock));
    result("lease", fcntl(fd, F_SETLEASE, F_RDLCK));
    result("pipe-size", fcntl(fd, F_GETPIPE_SZ));
    result("seals", fcntl(fd, F_GET_SEALS));
    result("chmod", fchmod(fd, 0600));
    result("chown", fchown(fd, 0, 0));
    result("getdents", syscall(SYS_getdents64, fd, &lock, sizeof lock));
    result("fchdir", fchdir(fd));
}

const struct test CONTROL_CASES[] = {
    {"ioctl.queues", EACH, queues},
    {"ioctl.outq", EACH, out_queue},
    {"ioctl.atmark", EACH, at_mark},
    {"ioctl.modes", EACH, modes},
    {"ioctl.owners", V4, owners},
    {"ioctl.others", EACH, others},
    {"fcntl.sigio", EACH, signalled},
    {"fcntl.others", V4, locks},
    {"file.kind", EACH, kinds},
    {"file.identity", V4, identity},
    {"file.proc-net", EACH, listed},
    {"file.protocol", V4, xattr_name},
    {"option.credentials", EACH, credentials},
    {"io_uring.setup", V4, uring},
    {0},
};
