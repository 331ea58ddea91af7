// Peer: the program at the other end, the same for both runs.
//
//     differential peer ADDRESS4 ADDRESS6 fixed|any [REACHED-PORT...]
//
// Listens at the ports of frame.h (fixed) or at any, and prints lines "FAMILY PORT REAL-PORT". SCRIPT reads lines:
//     send N     sends N bytes          take N     reads N bytes         echo     echoes until the end, then ends
//     fin        ends its half          close      closes                reset    resets (linger 0)
//     unread     closes with bytes unread          wait     reads nothing until the end
//     oob        one urgent byte        note TAG   reads to the end, remembers how it came and how much
//     told TAG   answers with what it remembers    ms N     waits
// DIALLER reads "PORT WORDS...": connects to where that port of the client is reached, then follows the words as a
// client; see dialler().
#include "frame.h"
#include <arpa/inet.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { NOTES = 512, TAG_BYTES = 48, LIFE_SECONDS = 120 };
static struct note {
    char tag[TAG_BYTES];
    char text[TAG_BYTES + 1];
    volatile int state;  // 0 free, 1 being written, 2 there
} *notes;

static void write_note(const char *tag, const char *text) {
    for (int i = 0; i < NOTES; i++)
        if (__sync_bool_compare_and_swap(&notes[i].state, 0, 1)) {
            snprintf(notes[i].tag, TAG_BYTES, "%s", tag);
            snprintf(notes[i].text, sizeof notes[i].text, "%s", text);
            __sync_synchronize();
            notes[i].state = 2;
            return;
        }
}

// Waits for the note, forgets it.
static void read_note(const char *tag, char *text) {
    for (int wait = 0; wait < PATIENCE_MS / 10; wait++) {
        for (int i = 0; i < NOTES; i++)
            if (notes[i].state == 2 && !strcmp(notes[i].tag, tag)) {
                strcpy(text, notes[i].text);
                notes[i].state = 0;
                return;
            }
        usleep(10000);
    }
    strcpy(text, "nothing");
}

static bool read_line(int fd, char *line, size_t size) {
    size_t length = 0;
    while (length + 1 < size && recv(fd, line + length, 1, 0) == 1) {
        if (line[length] == '\n') {
            line[length] = 0;
            return true;
        }
        length++;
    }
    return false;
}

static void send_bytes(int fd, long count) {
    char bytes[4096];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = 'a' + i % 26;
    while (count > 0) {
        ssize_t done = send(fd, bytes, count < 4096 ? count : 4096, MSG_NOSIGNAL);
        if (done <= 0) return;
        count -= done;
    }
}

// Reads `count` bytes, or to the end; how much, and how it ended.
static long take(int fd, long count, const char **end) {
    char bytes[16384];
    long total = 0;
    *end = "more";
    while (count < 0 || total < count) {
        long left = count < 0 ? (long)sizeof bytes : count - total;
        ssize_t got = recv(fd, bytes, left < (long)sizeof bytes ? left : (long)sizeof bytes, 0);
        if (got <= 0) {
            *end = got == 0 ? "fin" : errno == ECONNRESET ? "reset" : error_name(errno);
            break;
        }
        total += got;
    }
    return total;
}

static void echo(int fd) {
    char bytes[16384];
    ssize_t got;
    while ((got = recv(fd, bytes, sizeof bytes, 0)) > 0)
        for (ssize_t done = 0, sent; done < got; done += sent)
            if ((sent = send(fd, bytes + done, got - done, MSG_NOSIGNAL)) <= 0) return;
    shutdown(fd, SHUT_WR);
}

static void wait_for_end(int fd) {
    struct pollfd entry = {fd, POLLRDHUP, 0};
    poll(&entry, 1, LIFE_SECONDS * 1000);
}

static void reset(int fd) {
    struct linger now = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
}

static void script(int fd) {
    char line[256], text[TAG_BYTES + 1];
    const char *end;
    while (read_line(fd, line, sizeof line)) {
        char word[16] = "", tag[TAG_BYTES] = "";
        sscanf(line, "%15s %47s", word, tag);
        long number = atol(tag);
        if (!strcmp(word, "send")) send_bytes(fd, number);
        else if (!strcmp(word, "take")) take(fd, number, &end);
        else if (!strcmp(word, "echo")) return echo(fd);
        else if (!strcmp(word, "fin")) shutdown(fd, SHUT_WR);
        else if (!strcmp(word, "close")) return;
        else if (!strcmp(word, "reset")) return reset(fd);
        else if (!strcmp(word, "wait")) return wait_for_end(fd);
        else if (!strcmp(word, "oob")) send(fd, "o", 1, MSG_OOB | MSG_NOSIGNAL);
        else if (!strcmp(word, "ms")) usleep(number * 1000);
        else if (!strcmp(word, "unread")) {
            struct pollfd entry = {fd, POLLIN, 0};
            poll(&entry, 1, PATIENCE_MS);
            return;
        } else if (!strcmp(word, "note")) {
            long total = take(fd, -1, &end);
            snprintf(text, sizeof text, "%s,%ld", end, total);
            return write_note(tag, text);
        } else if (!strcmp(word, "told")) {
            read_note(tag, text);
            strcat(text, "\n");
            send(fd, text, strlen(text), MSG_NOSIGNAL);
        } else return;
    }
}

static void greeting(int fd) {
    send(fd, "hello\n", 6, MSG_NOSIGNAL);
    echo(fd);
}

static char *reach4, *reach6;  // where servers of the client are reached
static int reach_ports[2 * REACHED_COUNT];

static int reach(int port, int timeout_ms) {
    struct address to = {0};
    bool six = port >= REACHED + REACHED_COUNT;
    port = reach_ports[port - REACHED];
    if (six) {
        to.v6.sin6_family = AF_INET6, to.v6.sin6_port = htons(port), to.length = sizeof to.v6;
        inet_pton(AF_INET6, reach6, &to.v6.sin6_addr);
    } else {
        to.v4.sin_family = AF_INET, to.v4.sin_port = htons(port), to.length = sizeof to.v4;
        inet_pton(AF_INET, reach4, &to.v4.sin_addr);
    }
    int fd = socket(to.name.sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (connect(fd, &to.name, to.length) && errno == EINPROGRESS) {
        struct pollfd entry = {fd, POLLOUT, 0};
        int error = ETIMEDOUT;
        socklen_t length = sizeof error;
        if (poll(&entry, 1, timeout_ms) == 1) getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
        errno = error;
        if (error) return close(fd), errno = error, -1;
    } else if (errno && getpeername(fd, &(struct sockaddr){0}, &(socklen_t){0})) return -1;
    fcntl(fd, F_SETFL, 0);
    return fd;
}

// "PORT WORD...": connects, does what the words say, answers with one line.
//     hello      sends "hello\n"         echo N   sends N bytes, reads them back, says how many came
//     fin        ends its half           reset    resets          close   closes
//     pause      waits a moment
//     end        reads to the end, says how it ended              hold    leaves it open until the asker ends
static void dialler(int asker) {
    char line[256], *rest = line, *word;
    char answer[256] = "";
    int port, used;
    if (!read_line(asker, line, sizeof line) || sscanf(line, "%d%n", &port, &used) != 1) return;
    if (port < REACHED || port >= REACHED + 2 * REACHED_COUNT) return;
    rest += used;
    int fd = reach(port, 3000);
    strcat(answer, fd < 0 ? error_name(errno) : "connected");
    while (fd >= 0 && (word = strsep(&rest, " "))) {
        const char *end;
        char text[64] = "";
        if (!strcmp(word, "hello")) send(fd, "hello\n", 6, MSG_NOSIGNAL);
        else if (!strncmp(word, "echo", 4)) {
            long size = atol(word + 4);
            send_bytes(fd, size);
            snprintf(text, sizeof text, ",echoed:%ld", take(fd, size, &end));
        } else if (!strcmp(word, "fin")) shutdown(fd, SHUT_WR);
        else if (!strcmp(word, "reset")) reset(fd), fd = -1;
        else if (!strcmp(word, "pause")) usleep(1500000);
        else if (!strcmp(word, "close")) close(fd), fd = -1;
        else if (!strcmp(word, "end")) {
            long total = take(fd, -1, &end);
            snprintf(text, sizeof text, ",end:%s:%ld", end, total);
        } else if (!strcmp(word, "hold")) {
            strcat(answer, "\n");
            send(asker, answer, strlen(answer), MSG_NOSIGNAL);
            wait_for_end(asker);
            return;
        }
        strcat(answer, text);
    }
    strcat(answer, "\n");
    send(asker, answer, strlen(answer), MSG_NOSIGNAL);
    shutdown(asker, SHUT_WR);
    wait_for_end(asker);
}

static int listener(const char *address, int port, int backlog) {
    struct address at = {0};
    bool six = strchr(address, ':');
    if (six) {
        at.v6.sin6_family = AF_INET6, at.v6.sin6_port = htons(port), at.length = sizeof at.v6;
        inet_pton(AF_INET6, address, &at.v6.sin6_addr);
    } else {
        at.v4.sin_family = AF_INET, at.v4.sin_port = htons(port), at.length = sizeof at.v4;
        inet_pton(AF_INET, address, &at.v4.sin_addr);
    }
    int fd = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (six) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (bind(fd, &at.name, at.length) || (backlog >= 0 && listen(fd, backlog))) {
        fprintf(stderr, "peer: %s port %d: %m\n", address, port);
        exit(1);
    }
    return fd;
}

static int port_of(int fd) {
    struct address name = {.length = sizeof name.bytes};
    getsockname(fd, &name.name, &name.length);
    return ntohs(name.name.sa_family == AF_INET6 ? name.v6.sin6_port : name.v4.sin_port);
}

static void serve(int fd, void (*service)(int)) {
    for (int client; (client = accept(fd, NULL, NULL)) >= 0; close(client))
        if (fork() == 0) {
            close(fd);
            alarm(LIFE_SECONDS);
            service(client);
            exit(0);
        }
    exit(1);
}

// Fills a listener's queue of one, so that further SYNs are dropped.
static void fill(int fd) {
    struct address name = {.length = sizeof name.bytes};
    getsockname(fd, &name.name, &name.length);
    for (int i = 0; i < 4; i++) {
        int filler = socket(name.name.sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(filler, &name.name, name.length);
    }
}

int peer(int argc, char **argv) {
    if (argc < 2) return 2;
    bool fixed = argc > 2 && !strcmp(argv[2], "fixed");
    reach4 = argv[0], reach6 = argv[1];
    notes = mmap(NULL, NOTES * sizeof *notes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    signal(SIGCHLD, SIG_IGN);
    // Where each REACHED port is really reached.
    for (int i = 0; i < 2 * REACHED_COUNT; i++) reach_ports[i] = argc > 3 + i ? atoi(argv[3 + i]) : REACHED + i;
    struct {
        int port;
        void (*service)(int);
    } services[] = {{SCRIPT, script}, {SILENT, NULL}, {CLOSED, NULL}, {GREETING, greeting}, {DIALLER, dialler}};
    for (int which = 0; which < 2; which++)
        for (size_t i = 0; i < sizeof services / sizeof *services; i++) {
            int port = services[i].port;
            int fd = listener(argv[which], fixed ? port : 0, port == SILENT ? 0 : port == CLOSED ? -1 : 128);
            if (port == SILENT) fill(fd);
            printf("%d %d %d\n", which ? 6 : 4, port, port_of(fd));
            if (services[i].service && fork() == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                serve(fd, services[i].service);
            }
        }
    puts("ready");
    fflush(stdout);
    for (;;) pause();
}
