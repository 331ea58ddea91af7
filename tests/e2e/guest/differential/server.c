// Cases of listen() and accept(): clients come from outside, by the peer, and from the guest itself.
#include "frame.h"
#include <arpa/inet.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/wait.h>

static long bind_to(int fd, enum where where, int port) {
    struct address at = address_of(where, port);
    // A v4-mapped address that is bound is reached over IPv4 only; a dual-stack server binds to "::".
    if (family == MAPPED && where == ANY) at.v6.sin6_addr = in6addr_any;
    return bind(fd, &at.name, at.length);
}

// The gateway may need a moment to give up the port of the case before.
static int listen_patiently(int fd, int backlog) {
    int done;
    for (int tries = 0; (done = listen(fd, backlog)) && errno == EADDRINUSE && tries < 100; tries++) pause_ms(20);
    return done;
}

static int listening(int backlog) {
    int fd = tcp(), on = 1, off = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (family == MAPPED) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind_to(fd, ANY, reached_port)) fail("bind: %s", error_name(errno));
    if (listen_patiently(fd, backlog)) fail("listen: %s", error_name(errno));
    return fd;
}

// A connection to the peer's dialler, which connects to us; what it saw comes as one line.
static int dialled(const char *words) {
    int fd = connected(DIALLER);
    char line[128];
    snprintf(line, sizeof line, "%d %s\n", reached_port, words);
    tell(fd, line);
    return fd;
}

static void answer_of(const char *key, int fd) {
    char answer[256];
    size_t length = 0;
    ssize_t got;
    while (length + 1 < sizeof answer && (got = recv(fd, answer + length, sizeof answer - 1 - length, 0)) > 0) {
        length += got;
        if (answer[length - 1] == '\n') break;
    }
    answer[length ? length - 1 : 0] = 0;
    for (char *c = answer; *c; c++)
        if (*c == ' ') *c = '_';
    say(key, "%s", answer);
    close(fd);
}

static void kind_of_name(const char *key, struct address *name) {
    bool six = name->name.sa_family == AF_INET6;
    int port = ntohs(six ? name->v6.sin6_port : name->v4.sin_port);
    bool mapped = six && IN6_IS_ADDR_V4MAPPED(&name->v6.sin6_addr);
    static const char zero[16];
    bool any = six ? !memcmp(&name->v6.sin6_addr, zero, 16) : !name->v4.sin_addr.s_addr;
    say(key, "%s-%s:%s,%d", mapped ? "mapped" : six ? "v6" : "v4", any ? "any" : "some",
        port == reached_port ? "listener" : port ? "port" : "0", name->length);
}

static void names_of(const char *key, int fd) {
    struct address name = {.length = sizeof name.bytes};
    char text[64];
    snprintf(text, sizeof text, "%s-local", key);
    if (getsockname(fd, &name.name, &name.length)) result(text, -1);
    else kind_of_name(text, &name);
    name.length = sizeof name.bytes;
    snprintf(text, sizeof text, "%s-peer", key);
    if (getpeername(fd, &name.name, &name.length)) result(text, -1);
    else kind_of_name(text, &name);
}

static void echo_all(int fd) {
    char bytes[16384];
    ssize_t got;
    while ((got = recv(fd, bytes, sizeof bytes, 0)) > 0)
        for (ssize_t done = 0, sent; done < got; done += sent)
            if ((sent = send(fd, bytes + done, got - done, MSG_NOSIGNAL)) <= 0) return;
}

static void accepted(void) {
    int fd = listening(8), peer = dialled("echo1000 fin end");
    struct address from = {.length = sizeof from.bytes};
    int client = accept(fd, &from.name, &from.length);
    if (client < 0) fail("accept: %s", error_name(errno));
    kind_of_name("from", &from);
    names_of("client", client);
    so_error("so_error", client);
    result("flags", fcntl(client, F_GETFL));
    result("fd-flags", fcntl(client, F_GETFD));
    echo_all(client);
    close(client);
    answer_of("peer-saw", peer);
    names_of("listener", fd);
    polled("poll", fd, 0);
    result("accept-flags", fcntl(fd, F_GETFL));
}

static void same_peer_name(void) {
    int fd = listening(8), peer = dialled("hold");
    struct address from = {.length = sizeof from.bytes}, name = {.length = sizeof name.bytes};
    int client = accept(fd, &from.name, &from.length);
    getpeername(client, &name.name, &name.length);
    say("same", "%d", from.length == name.length && !memcmp(from.bytes, name.bytes, from.length));
    close(client);
    close(peer);
}

static void accepts_flags(void) {
    static const struct {
        const char *name;
        int flags;
    } flags[] = {{"none", 0}, {"nonblock", SOCK_NONBLOCK}, {"cloexec", SOCK_CLOEXEC}, {"both", SOCK_NONBLOCK | SOCK_CLOEXEC}};
    int fd = listening(8);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        int peer = dialled("hold");
        int client = accept4(fd, NULL, NULL, flags[i].flags);
        char key[32];
        snprintf(key, sizeof key, "%s-flags", flags[i].name);
        result(key, fcntl(client, F_GETFL));
        snprintf(key, sizeof key, "%s-fd", flags[i].name);
        result(key, fcntl(client, F_GETFD));
        close(client);
        close(peer);
    }
    result("bad", accept4(fd, NULL, NULL, 0x10));
}

static void buffers(void) {
    static const int rooms[] = {-1, 0, 1, 2, 8, 15, 16, 17, 27, 28, 128};
    int fd = listening(8);
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        int peer = dialled("hold");
        struct address from = {0};
        memset(from.bytes, 0xee, sizeof from.bytes);
        from.length = rooms[i];
        int client = accept(fd, &from.name, &from.length);
        int number = errno, written = sizeof from.bytes;
        while (written > 0 && (unsigned char)from.bytes[written - 1] == 0xee) written--;
        char key[32];
        snprintf(key, sizeof key, "room%d", rooms[i]);
        errno = number;
        if (client < 0) result(key, -1);
        else say(key, "%d/%d", written, from.length);
        if (client < 0) {
            // The kernel has taken the connection off the queue, or not.
            fcntl(fd, F_SETFL, O_NONBLOCK);
            pause_ms(A_MOMENT_MS);
            int rest = accept(fd, NULL, NULL);
            snprintf(key, sizeof key, "rest%d", rooms[i]);
            say(key, "%s", rest < 0 ? error_name(errno) : "there");
            close(rest);
            fcntl(fd, F_SETFL, 0);
        }
        close(client);
        close(peer);
    }
}

static void bad_memory(void) {
    int fd = listening(8), peer = dialled("hold");
    socklen_t length = 16;
    events(fd, POLLIN, PATIENCE_MS);
    result("bad-name", accept(fd, (void *)8, &length));
    close(peer);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    peer = dialled("hold");
    events(fd, POLLIN, PATIENCE_MS);
    result("bad-length", accept(fd, &(struct sockaddr){0}, (void *)8));
    close(peer);
}

static void would_block(void) {
    int fd = listening(8);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    result("none", accept(fd, NULL, NULL));
    polled("poll", fd, 0);
    int peer = dialled("hello hold");
    waited("waiting", fd, POLLIN);
    int client = accept(fd, NULL, NULL);
    say("accepted", "%d", client >= 0);
    // Not inherited on Linux.
    result("flags", fcntl(client, F_GETFL));
    result("none-again", accept(fd, NULL, NULL));
    received("hello", client, 6, MSG_WAITALL);
    close(peer);
}

static void epolled(void) {
    int fd = listening(8), set = epoll_create1(0);
    struct epoll_event event = {EPOLLIN | EPOLLET, {.u64 = 1}}, got;
    epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
    result("none", epoll_wait(set, &got, 1, 0));
    int peer = dialled("hold");
    result("wake", epoll_wait(set, &got, 1, PATIENCE_MS));
    say("bits", "%s", poll_bits(got.events));
    result("again", epoll_wait(set, &got, 1, 100));
    int other = dialled("hold");
    result("second-wake", epoll_wait(set, &got, 1, PATIENCE_MS));
    close(accept(fd, NULL, NULL));
    close(accept(fd, NULL, NULL));
    close(peer), close(other);
}

static void timeout(void) {
    int fd = listening(8);
    struct timeval soon = {0, 100000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon);
    result("accept", accept(fd, NULL, NULL));
}

static volatile sig_atomic_t signals;
static void count_signal(int number) { (void)number, signals++; }

static void interrupted(void) {
    int fd = listening(8);
    struct sigaction action = {.sa_handler = count_signal};
    sigaction(SIGALRM, &action, NULL);
    ualarm(200000, 0);
    result("accept", accept(fd, NULL, NULL));
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, NULL);
    if (fork() == 0) {
        pause_ms(800);
        int peer = dialled("hello hold");
        pause_ms(2000);
        close(peer);
        _exit(0);
    }
    ualarm(200000, 0);
    int client = accept(fd, NULL, NULL);
    say("restarted", "%d", client >= 0);
    received("hello", client, 6, MSG_WAITALL);
    say("signals", "%d", (int)signals);
}

static void listener_errors(void) {
    int fd = listening(8);
    result("recv", recv(fd, &(char){0}, 1, 0));
    result("send", send(fd, "x", 1, MSG_NOSIGNAL));
    result("connect", dial(fd, SCRIPT));
    result("listen-again", listen(fd, 16));
    result("bind", bind_to(fd, ANY, 0));
    result("peername", getpeername(fd, &(struct sockaddr){0}, &(socklen_t){0}));
    int other = tcp();
    result("taken", bind_to(other, ANY, reached_port));
    int on = 1;
    setsockopt(other, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    result("taken-reuse", bind_to(other, ANY, reached_port));
    int value = -1;
    socklen_t length = sizeof value;
    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &length);
    say("accepts", "%d", value);
    close(fd);
    result("free", bind_to(other, ANY, reached_port));
    result("listen", listen_patiently(other, 1));
}

static void port_zero(void) {
    int fd = tcp();
    result("listen", listen(fd, 8));
    names_of("listener", fd);
    fd = tcp();
    result("bind", bind_to(fd, ANY, 0));
    result("listen-bound", listen(fd, 8));
    names_of("bound", fd);
}

// Clients of the guest itself are the guest's own.
static void local_client(void) {
    int fd = listening(8), client = tcp();
    struct address to = address_of(OWN, reached_port);
    result("connect", connect(client, &to.name, to.length));
    int server = accept(fd, NULL, NULL);
    tell(client, "hello\n");
    received("hello", server, 6, MSG_WAITALL);
    names_of("server", server);
    int peer = dialled("hello hold");
    int outside = accept(fd, NULL, NULL);
    received("outside", outside, 6, MSG_WAITALL);
    tell(client, "again\n");
    received("again", server, 6, MSG_WAITALL);
    close(peer);
}

static void peer_gone(const char *how) {
    int fd = listening(8), peer = dialled(how);
    answer_of("peer-saw", peer);
    pause_ms(A_MOMENT_MS);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    events(fd, POLLIN, PATIENCE_MS);
    int client = accept(fd, NULL, NULL);
    if (client < 0) return result("accept", -1);
    say("accept", "%d", client >= 0);
    names_of("client", client);
    polled("poll", client, 0);
    received("recv", client, 10, 0);
    received("recv-end", client, 10, 0);
}

static void closed_before_accept(void) { peer_gone("hello close"); }
static void reset_before_accept(void) { peer_gone("hello reset"); }

static void listener_closed(void) {
    int fd = listening(8), peer = dialled("end");
    events(fd, POLLIN, PATIENCE_MS);
    pause_ms(A_MOMENT_MS);
    result("close", close(fd));
    answer_of("waiting-client", peer);
    pause_ms(A_MOMENT_MS);
    answer_of("later-client", dialled("end"));
    fd = listening(8);
    peer = dialled("hello hold");
    int client = accept(fd, NULL, NULL);
    received("reopened", client, 6, MSG_WAITALL);
    close(peer);
}

static void listener_shut(void) {
    int fd = listening(8);
    if (fork() == 0) {
        pause_ms(A_MOMENT_MS);
        shutdown(fd, SHUT_RD);
        _exit(0);
    }
    result("accept", accept(fd, NULL, NULL));
    answer_of("later-client", dialled("end"));
    result("listen-again", listen(fd, 8));
    int peer = dialled("hello hold");
    int client = accept(fd, NULL, NULL);
    received("hello", client, 6, MSG_WAITALL);
    close(peer);
}

static void not_listening(void) {
    int fd = tcp(), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    result("bind", bind_to(fd, ANY, reached_port));
    answer_of("bound-only", dialled("end"));
    result("accept", accept(fd, NULL, NULL));
    close(fd);
    answer_of("nothing", dialled("end"));
}

static void killed_server(void) {
    int ends[2];
    if (pipe(ends)) fail("pipe");
    pid_t child = fork();
    if (child == 0) {
        int fd = listening(8);
        if (write(ends[1], "x", 1)) {}
        close(accept(fd, NULL, NULL));
        pause();
    }
    char byte;
    if (read(ends[0], &byte, 1)) {}
    answer_of("served", dialled("end"));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    pause_ms(A_MOMENT_MS);
    answer_of("killed", dialled("end"));
}

static void one_after_another(void) {
    int fd = listening(64), good = 0;
    for (int i = 0; i < 30; i++) {
        int peer = dialled("echo100 fin end"), client = accept(fd, NULL, NULL);
        echo_all(client);
        close(client);
        char answer[64] = "";
        size_t length = 0;
        ssize_t got;
        while (length < sizeof answer - 1 && (got = recv(peer, answer + length, sizeof answer - 1 - length, 0)) > 0) length += got;
        good += !strncmp(answer, "connected,echoed:100,end:fin:0", 30);
        close(peer);
    }
    say("served", "%d", good);
}

static void many_waiting(void) {
    enum { CLIENTS = 8 };
    int fd = listening(CLIENTS), peers[CLIENTS], clients = 0;
    for (int i = 0; i < CLIENTS; i++) peers[i] = dialled("hello hold");
    pause_ms(500);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    for (int wait = 0; wait < 100 && clients < CLIENTS; wait++) {
        int client = accept(fd, NULL, NULL);
        char bytes[8];
        if (client < 0) pause_ms(20);
        else if (recv(client, bytes, 6, MSG_WAITALL) == 6) clients++;
    }
    say("clients", "%d", clients);
    result("none", accept(fd, NULL, NULL));
    for (int i = 0; i < CLIENTS; i++) close(peers[i]);
}

static void prefork(void) {
    enum { WORKERS = 3, CLIENTS = 9 };
    int fd = listening(CLIENTS);
    for (int i = 0; i < WORKERS; i++)
        if (fork() == 0)
            for (;;) {
                int client = accept(fd, NULL, NULL);
                if (client < 0) _exit(1);
                echo_all(client);
                close(client);
            }
    int peers[CLIENTS], good = 0;
    for (int i = 0; i < CLIENTS; i++) peers[i] = dialled("echo10 fin end");
    for (int i = 0; i < CLIENTS; i++) {
        char answer[64] = "";
        recv(peers[i], answer, sizeof answer - 1, MSG_WAITALL);
        good += !strncmp(answer, "connected,echoed:10,end:fin:0", 29);
        close(peers[i]);
    }
    say("served", "%d", good);
}

static void *accept_it(void *fd) {
    int client = accept((int)(intptr_t)fd, NULL, NULL);
    char bytes[8];
    return (void *)(intptr_t)(client >= 0 && recv(client, bytes, 6, MSG_WAITALL) == 6);
}

static void threads(void) {
    enum { THREADS = 4 };
    int fd = listening(8), peers[THREADS], good = 0;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, accept_it, (void *)(intptr_t)fd);
    for (int i = 0; i < THREADS; i++) peers[i] = dialled("hello hold");
    for (int i = 0; i < THREADS; i++) {
        void *done;
        pthread_join(threads[i], &done);
        good += !!done;
    }
    say("accepted", "%d", good);
    for (int i = 0; i < THREADS; i++) close(peers[i]);
}

static void too_many_files(void) {
    int fd = listening(8), peer = dialled("hello hold");
    events(fd, POLLIN, PATIENCE_MS);
    struct rlimit before, few = {0};
    getrlimit(RLIMIT_NOFILE, &before);
    few = before;
    few.rlim_cur = peer + 1;
    setrlimit(RLIMIT_NOFILE, &few);
    result("accept", accept(fd, NULL, NULL));
    polled("poll", fd, 0);
    setrlimit(RLIMIT_NOFILE, &before);
    int client = accept(fd, NULL, NULL);
    received("later", client, 6, MSG_WAITALL);
    close(peer);
}

static void options_inherited(void) {
    int fd = listening(8), on = 1, value = 0, idle = 77;
    socklen_t length = sizeof value;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    int peer = dialled("hold"), client = accept(fd, NULL, NULL);
    getsockopt(client, SOL_SOCKET, SO_KEEPALIVE, &value, &length);
    say("keepalive", "%d", value);
    getsockopt(client, IPPROTO_TCP, TCP_NODELAY, &value, &length);
    say("nodelay", "%d", value);
    getsockopt(client, IPPROTO_TCP, TCP_KEEPIDLE, &value, &length);
    say("keepidle", "%d", value);
    getsockopt(client, SOL_SOCKET, SO_DOMAIN, &value, &length);
    say("domain", "%d", value == (family == V4 ? AF_INET : AF_INET6));
    getsockopt(client, SOL_SOCKET, SO_REUSEADDR, &value, &length);
    say("reuseaddr", "%d", value);
    struct linger now = {1, 0};
    result("linger", setsockopt(client, SOL_SOCKET, SO_LINGER, &now, sizeof now));
    close(client);
    close(peer);
}

static void server_resets(void) {
    int fd = listening(8), peer = dialled("end"), client = accept(fd, NULL, NULL);
    struct linger now = {1, 0};
    setsockopt(client, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    pause_ms(A_MOMENT_MS);
    close(client);
    answer_of("linger-0", peer);
    peer = dialled("hello end");
    client = accept(fd, NULL, NULL);
    events(client, POLLIN, PATIENCE_MS);
    close(client);
    answer_of("unread", peer);
    peer = dialled("end");
    client = accept(fd, NULL, NULL);
    shutdown(client, SHUT_WR);
    answer_of("half-closed", peer);
}

static void client_resets(void) {
    int fd = listening(8), peer = dialled("hello pause reset"), client = accept(fd, NULL, NULL);
    received("hello", client, 6, MSG_WAITALL);
    answer_of("peer-saw", peer);
    waited("poll", client, POLLRDHUP);
    so_error("so_error", client);
    received("recv", client, 10, 0);
}

static void reuse_port(void) {
    int on = 1, both[2], peers[6], total = 0;
    for (int i = 0; i < 2; i++) {
        both[i] = tcp();
        setsockopt(both[i], SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        setsockopt(both[i], SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
        result(i ? "bind-second" : "bind", bind_to(both[i], ANY, reached_port));
        result(i ? "listen-second" : "listen", listen_patiently(both[i], 16));
        fcntl(both[i], F_SETFL, O_NONBLOCK);
    }
    for (int i = 0; i < 6; i++) peers[i] = dialled("hello hold");
    for (int wait = 0; wait < 200 && total < 6; wait++)
        for (int i = 0; i < 2; i++) {
            int client = accept(both[i], NULL, NULL);
            if (client >= 0) total++;
            else pause_ms(10);
        }
    say("accepted", "%d", total);
    close(both[0]);
    for (int i = 0; i < 6; i++) close(peers[i]);
    int peer = dialled("hello hold"), client = -1;
    for (int wait = 0; wait < 100 && client < 0; wait++)
        if ((client = accept(both[1], NULL, NULL)) < 0) pause_ms(20);
    say("after-close", "%d", client >= 0);
    close(peer);
}

static void loopback_only(void) {
    int fd = tcp(), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    result("bind", bind_to(fd, OWN, reached_port));
    result("listen", listen(fd, 8));
    names_of("listener", fd);
    int client = tcp();
    struct address to = address_of(OWN, reached_port);
    result("connect", connect(client, &to.name, to.length));
    say("accepted", "%d", accept(fd, NULL, NULL) >= 0);
}

static void passed_on(void) {
    int fd = listening(8), peer = dialled("echo50 fin end"), client = accept(fd, NULL, NULL);
    pid_t child = fork();
    if (child == 0) {
        close(fd);
        names_of("child", client);
        echo_all(client);
        _exit(0);
    }
    close(client);
    answer_of("peer-saw", peer);
}

const struct test SERVER_CASES[] = {
    {"accept.echo", EACH, accepted},
    {"accept.same-name", EACH, same_peer_name},
    {"accept.flags", EACH, accepts_flags},
    {"accept.rooms", EACH, buffers},
    {"accept.efault", V4, bad_memory},
    {"accept.nonblocking", EACH, would_block},
    {"accept.epoll", EACH, epolled},
    {"accept.timeout", EACH, timeout},
    {"accept.interrupted", EACH, interrupted},
    {"accept.local", EACH, local_client},
    {"accept.closed-before", EACH, closed_before_accept},
    {"accept.reset-before", EACH, reset_before_accept},
    {"accept.sequence", EACH, one_after_another},
    {"accept.waiting", EACH, many_waiting},
    {"accept.prefork", EACH, prefork},
    {"accept.threads", EACH, threads},
    {"accept.emfile", EACH, too_many_files},
    {"accept.options", EACH, options_inherited},
    {"accept.resets", EACH, server_resets},
    {"accept.reset-by-client", EACH, client_resets},
    {"accept.fork", EACH, passed_on},
    {"listen.calls", EACH, listener_errors},
    {"listen.port-0", EACH, port_zero},
    {"listen.close", EACH, listener_closed},
    {"listen.shutdown", EACH, listener_shut},
    {"listen.none", EACH, not_listening},
    {"listen.killed", EACH, killed_server},
    {"listen.reuseport", EACH, reuse_port},
    {"listen.loopback", EACH, loopback_only},
    {0},
};
