// Cases of processes: sockets that are duplicated, inherited, passed and kept over exec.
#include "frame.h"
#include <pthread.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

// "echo FD": uses an inherited descriptor; its exit status says how.
int helper(int argc, char **argv) {
    int fd = atoi(argv[1]);
    char bytes[8] = "";
    if (argc < 2 || strcmp(argv[0], "echo")) return 2;
    if (fcntl(fd, F_GETFD) < 0) return 10;
    if (getpeername(fd, &(struct sockaddr){0}, &(socklen_t){0})) return 11;
    if (send(fd, "abc", 3, MSG_NOSIGNAL) != 3) return 12;
    if (recv(fd, bytes, 3, MSG_WAITALL) != 3 || strcmp(bytes, "abc")) return 13;
    return 0;
}

static int status_of(pid_t child) {
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

static char **helper_arguments(int fd) {
    static char number[16], *arguments[] = {"differential", "helper", "echo", number, NULL};
    snprintf(number, sizeof number, "%d", fd);
    return arguments;
}

static void echo(const char *key, int fd) {
    char bytes[4] = "";
    result("send", send(fd, "xyz", 3, MSG_NOSIGNAL));
    if (recv(fd, bytes, 3, MSG_WAITALL) != 3) result(key, -1);
    else say(key, "%s", bytes);
}

static void exec_after(bool cloexec, bool spawned) {
    int fd = scripted("echo\n");
    if (cloexec) fcntl(fd, F_SETFD, FD_CLOEXEC);
    pid_t child;
    if (spawned) {
        if (posix_spawn(&child, "/proc/self/exe", NULL, NULL, helper_arguments(fd), NULL)) fail("posix_spawn");
    } else if ((child = fork()) == 0) {
        execv("/proc/self/exe", helper_arguments(fd));
        _exit(99);
    }
    say("child", "%d", status_of(child));
    echo("echo", fd);
}

static void exec_inherits(void) { exec_after(false, false); }
static void exec_closes(void) { exec_after(true, false); }
static void spawn_inherits(void) { exec_after(false, true); }

static void exec_own_cloexec(void) {
    int fd = socket(family == V4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    dial(fd, SCRIPT);
    result("fd-flags", fcntl(fd, F_GETFD));
    if (fork() == 0) {
        execv("/proc/self/exe", helper_arguments(fd));
        _exit(99);
    }
    int status;
    wait(&status);
    say("child", "%d", WEXITSTATUS(status));
}

static void fork_after(void) {
    int fd = scripted("echo\n");
    pid_t child = fork();
    if (child == 0) {
        char bytes[4] = "";
        bool good = send(fd, "abc", 3, 0) == 3 && recv(fd, bytes, 3, MSG_WAITALL) == 3;
        _exit(good && !getpeername(fd, &(struct sockaddr){0}, &(socklen_t){0}) ? 0 : 1);
    }
    say("child", "%d", status_of(child));
    echo("parent", fd);
    close(fd);
}

// The connection lasts as long as the last process that has it.
static void fork_holds(void) {
    int fd = scripted("note holds@\n"), ends[2];
    if (pipe(ends)) fail("pipe");
    if (fork() == 0) {
        close(ends[1]);
        char byte;
        if (read(ends[0], &byte, 1)) {}
        send(fd, "late", 4, 0);
        _exit(0);
    }
    close(fd);
    pause_ms(A_MOMENT_MS);
    close(ends[0]);
    close(ends[1]);
    say("peer-saw", "%s", ask("told holds@\n"));
}

static void fork_before(bool child_connects) {
    int fd = tcp();
    int ends[2];
    if (pipe(ends)) fail("pipe");
    pid_t child = fork();
    char byte = 'x', bytes[4] = "";
    if ((child == 0) == child_connects) {
        int done = dial(fd, SCRIPT);
        if (!done) tell(fd, "echo\n");
        if (write(ends[1], &byte, 1)) {}
        if (child == 0) pause_ms(PATIENCE_MS / 10), _exit(done ? 1 : 0);
        say("connect", "%d", done);
        say("child", "%d", status_of(child));
    } else {
        if (read(ends[0], &byte, 1)) {}
        bool named = !getpeername(fd, &(struct sockaddr){0}, &(socklen_t){0});
        bool sent = send(fd, "abc", 3, MSG_NOSIGNAL) == 3, got = sent && recv(fd, bytes, 3, MSG_WAITALL) == 3;
        if (child == 0) _exit(named + 2 * sent + 4 * got + 50);
        say("other", "%d%d%d", named, sent, got);
    }
}

static void fork_before_parent(void) { fork_before(false); }
static void fork_before_child(void) { fork_before(true); }

static void fork_before_threads_end(void) {
    int fd = tcp();
    pid_t child = fork();
    if (child == 0) {
        int done = dial(fd, SCRIPT);
        if (!done) tell(fd, "echo\n");
        _exit(done);
    }
    say("child", "%d", status_of(child));
    // The child is gone; its connection is ours.
    echo("echo", fd);
    name_of("peer", fd, true);
}

static void duplicates(void) {
    int fd = tcp(), copy = dup(fd), high = fcntl(fd, F_DUPFD, 100), closing = fcntl(fd, F_DUPFD_CLOEXEC, 200);
    int three = dup3(fd, 300, O_CLOEXEC), two = dup2(fd, 400);
    dial(copy, SCRIPT);
    tell(high, "echo\n");
    echo("echo", closing);
    say("numbers", "%d,%d,%d,%d", high, closing, three, two);
    say("cloexec", "%d,%d,%d,%d,%d", fcntl(copy, F_GETFD), fcntl(high, F_GETFD), fcntl(closing, F_GETFD),
        fcntl(three, F_GETFD), fcntl(two, F_GETFD));
    name_of("peer", two, true);
    close(fd), close(copy), close(high), close(closing), close(three);
    echo("last", two);
}

static void dup_over(void) {
    int fd = scripted("note over@\n"), other = scripted("echo\n");
    result("dup2", dup2(other, fd) == fd ? 0 : -1);
    say("peer-saw", "%s", ask("told over@\n"));
    echo("echo", fd);
}

static void number_reused(void) {
    for (int i = 0; i < 3; i++) {
        int fd = scripted("echo\n");
        char key[16];
        snprintf(key, sizeof key, "number%d", i);
        say(key, "%d", fd);
        echo("echo", fd);
        close(fd);
    }
    int fd = tcp();
    name_of("fresh-local", fd, false);
    name_of("fresh-peer", fd, true);
    close(fd);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    result("unix", getpeername(fd, &(struct sockaddr){0}, &(socklen_t){0}));
}

static void range_closed(void) {
    int fd = scripted("note range@\n");
    result("close_range", syscall(SYS_close_range, fd, fd + 100, 0));
    say("peer-saw", "%s", ask("told range@\n"));
    int again = tcp();
    say("same-number", "%d", again == fd);
    name_of("peer", again, true);
}

static int passed(int fd) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) fail("socketpair");
    char byte = 'x', control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    if (sendmsg(ends[0], &message, 0) != 1) fail("sendmsg");
    pid_t child = fork();
    if (child == 0) {
        close(fd);
        if (recvmsg(ends[1], &message, 0) != 1) _exit(1);
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
        char bytes[4] = "";
        if (getpeername(fd, &(struct sockaddr){0}, &(socklen_t){0})) {
            if (dial(fd, SCRIPT)) _exit(2);
            tell(fd, "echo\n");
        }
        _exit(send(fd, "abc", 3, MSG_NOSIGNAL) == 3 && recv(fd, bytes, 3, MSG_WAITALL) == 3 ? 0 : 3);
    }
    return status_of(child);
}

static void passed_after(void) {
    int fd = scripted("echo\n");
    say("receiver", "%d", passed(fd));
    echo("sender", fd);
}

// The receiver connects; the sender has the connection, too.
static void passed_before(void) {
    int fd = tcp();
    say("receiver", "%d", passed(fd));
    echo("sender", fd);
}

static void *close_it(void *fd) {
    pause_ms(A_MOMENT_MS);
    close((int)(intptr_t)fd);
    return NULL;
}

// Closing a descriptor that another thread reads from does not wake it; data does.
static void closed_while_read(void) {
    int fd = scripted("ms 900\nsend 3\nwait\n"), copy = fcntl(fd, F_DUPFD, 50);
    pthread_t thread;
    pthread_create(&thread, NULL, close_it, (void *)(intptr_t)fd);
    received("recv", fd, 10, 0);
    received("closed", fd, 10, 0);
    name_of("copy", copy, true);
    pthread_join(thread, NULL);
}

static void *connect_it(void *fd) { return (void *)(intptr_t)dial((int)(intptr_t)fd, SCRIPT); }

static void thread_connects(void) {
    int fd = tcp();
    pthread_t thread;
    void *done;
    pthread_create(&thread, NULL, connect_it, (void *)(intptr_t)fd);
    pthread_join(thread, &done);
    result("connect", (intptr_t)done);
    tell(fd, "echo\n");
    echo("echo", fd);
    name_of("peer", fd, true);
}

static void two_threads_connect(void) {
    int fd = tcp();
    pthread_t threads[2];
    int good = 0;
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, connect_it, (void *)(intptr_t)fd);
    for (int i = 0; i < 2; i++) {
        void *done;
        pthread_join(threads[i], &done);
        good += !done;
    }
    // The later one waits with the first, or comes when it is over.
    say("connected", "%d", good > 0);
    tell(fd, "echo\n");
    echo("echo", fd);
}

const struct test PROCESS_CASES[] = {
    {"process.exec", EACH, exec_inherits},
    {"process.exec-cloexec", EACH, exec_closes},
    {"process.exec-socket-cloexec", EACH, exec_own_cloexec},
    {"process.spawn", EACH, spawn_inherits},
    {"process.fork", EACH, fork_after},
    {"process.fork-holds", EACH, fork_holds},
    {"process.fork-before-parent", EACH, fork_before_parent},
    {"process.fork-before-child", EACH, fork_before_child},
    {"process.fork-before-gone", EACH, fork_before_threads_end},
    {"process.duplicates", EACH, duplicates},
    {"process.dup2-over", EACH, dup_over},
    {"process.numbers", EACH, number_reused},
    {"process.close_range", EACH, range_closed},
    {"process.rights-after", EACH, passed_after},
    {"process.rights-before", EACH, passed_before},
    {"process.closed-while-read", EACH, closed_while_read},
    {"process.thread", EACH, thread_connects},
    {"process.two-threads", EACH, two_threads_connect},
    {0},
};
