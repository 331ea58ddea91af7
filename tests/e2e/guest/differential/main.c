// Differential: what a program sees of its sockets, as one line per case.
//
//     differential run native|outsock [WORD...]     runs the cases whose name holds a WORD, or all
//     differential peer ...                         the other end, see peer.c
//
// Prints "NAME/FAMILY key=value ...". Run natively and under outsock, the lines are compared.
#include "frame.h"
#include <arpa/inet.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

int family;
static bool native;
static char *line;  // of the case that runs, in shared memory: what it said before it died is seen
enum { LINE_BYTES = 65536, CASE_SECONDS = 60 };

bool is_native(void) { return native; }

const char *error_name(int number) {
    const char *name = strerrorname_np(number);
    return name ? name : "E?";
}

void say(const char *key, const char *format, ...) {
    char text[16384];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    // A key that a case says again is numbered: send, send.2.
    char name[64], again[80];
    snprintf(name, sizeof name, "%s", key);
    snprintf(again, sizeof again, " %s=", name);
    for (int count = 2; strstr(line, again); count++) {
        snprintf(name, sizeof name, "%.48s.%d", key, count);
        snprintf(again, sizeof again, " %s=", name);
    }
    size_t length = strlen(line);
    snprintf(line + length, LINE_BYTES - length, " %s=%s", name, text);
}

void result(const char *key, long value) {
    int number = errno;
    if (value < 0) say(key, "%s", error_name(number));
    else say(key, "%ld", value);
}

void fail(const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *c = text; *c; c++)
        if (*c == ' ') *c = '-';
    say("FAILED", "%s", text);
    exit(1);
}

struct address address_of(enum where where, int port) {
    static const char *const v4[] = {"192.0.2.1", "198.51.100.101", "198.51.100.102", "198.51.100.103", "0.0.0.0", "127.0.0.1"};
    static const char *const v6[] = {"2001:db8::1", "2001:db8:1::1", "2001:db8:1::2", "2001:db8:1::3", "::", "::1"};
    struct address to = {0};
    if (family == V4) {
        to.length = sizeof to.v4;
        to.v4.sin_family = AF_INET;
        to.v4.sin_port = htons(port);
        inet_pton(AF_INET, v4[where], &to.v4.sin_addr);
        return to;
    }
    char text[64];
    snprintf(text, sizeof text, "%s%s", family == MAPPED ? "::ffff:" : "", family == MAPPED ? v4[where] : v6[where]);
    to.length = sizeof to.v6;
    to.v6.sin6_family = AF_INET6;
    to.v6.sin6_port = htons(port);
    inet_pton(AF_INET6, text, &to.v6.sin6_addr);
    return to;
}

int tcp(void) {
    int fd = socket(family == V4 ? AF_INET : AF_INET6, SOCK_STREAM, 0);
    if (fd < 0) fail("socket: %s", error_name(errno));
    return fd;
}

int tcp_nonblocking(void) {
    int fd = tcp();
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

int dial(int fd, int port) {
    struct address to = address_of(PEER, port);
    return connect(fd, &to.name, to.length);
}

int connected(int port) {
    int fd = tcp();
    if (dial(fd, port)) fail("cannot connect to the peer: %s", error_name(errno));
    return fd;
}

void tell(int fd, const char *script) {
    // The same case runs for each family at a time: '@' makes the tags of notes differ.
    char text[256];
    snprintf(text, sizeof text, "%s", script);
    for (char *c = text; *c; c++)
        if (*c == '@') *c = '0' + family;
    if (send(fd, text, strlen(text), MSG_NOSIGNAL) != (ssize_t)strlen(text)) fail("cannot send a script");
}

int scripted(const char *script) {
    int fd = connected(SCRIPT);
    tell(fd, script);
    return fd;
}

char *ask(const char *question) {
    static char answer[256];
    int fd = scripted(question);
    size_t length = 0;
    ssize_t got;
    while (length + 1 < sizeof answer && (got = recv(fd, answer + length, sizeof answer - 1 - length, 0)) > 0) {
        length += got;
        if (answer[length - 1] == '\n') break;
    }
    answer[length ? length - 1 : 0] = 0;
    close(fd);
    return answer;
}

const char *poll_bits(int bits) {
    static const struct {
        int bit;
        const char *name;
    } names[] = {{POLLIN, "IN"},         {POLLPRI, "PRI"},       {POLLOUT, "OUT"},       {POLLERR, "ERR"},
                 {POLLHUP, "HUP"},       {POLLNVAL, "NVAL"},     {POLLRDHUP, "RDHUP"},   {POLLRDNORM, "RDNORM"},
                 {POLLRDBAND, "RDBAND"}, {POLLWRNORM, "WRNORM"}, {POLLWRBAND, "WRBAND"}, {POLLMSG, "MSG"}};
    static char text[128];
    text[0] = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (bits & names[i].bit) strcat(strcat(text, text[0] ? "+" : ""), names[i].name);
    return text[0] ? text : "none";
}

int events(int fd, int wanted, int timeout_ms) {
    struct pollfd entry = {fd, wanted, 0};
    return poll(&entry, 1, timeout_ms) < 0 ? -1 : entry.revents;
}

void polled(const char *key, int fd, int timeout_ms) {
    say(key, "%s", poll_bits(events(fd, POLLIN | POLLPRI | POLLOUT | POLLRDHUP, timeout_ms)));
}

void waited(const char *key, int fd, int wanted) {
    events(fd, wanted, PATIENCE_MS);
    polled(key, fd, 0);
}

void so_error(const char *key, int fd) {
    int error = -1;
    socklen_t length = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length)) result(key, -1);
    else say(key, "%s", error ? error_name(error) : "0");
}

// A name without what differs from run to run: the peer's is told apart from any other, a port from none.
void name_of(const char *key, int fd, bool peers) {
    struct address name = {.length = sizeof name.bytes};
    if ((peers ? getpeername : getsockname)(fd, &name.name, &name.length)) return result(key, -1);
    struct address far = address_of(PEER, 0);
    bool six = name.name.sa_family == AF_INET6;
    int port = ntohs(six ? name.v6.sin6_port : name.v4.sin_port);
    void *host = six ? (void *)&name.v6.sin6_addr : (void *)&name.v4.sin_addr;
    void *expected = far.name.sa_family == AF_INET6 ? (void *)&far.v6.sin6_addr : (void *)&far.v4.sin_addr;
    size_t size = six ? 16 : 4;
    static const char zero[16];
    bool mapped = six && IN6_IS_ADDR_V4MAPPED(&name.v6.sin6_addr);
    bool is_far = name.name.sa_family == far.name.sa_family && !memcmp(host, expected, size);
    const char *what = !memcmp(host, zero, size) ? "any" : peers && is_far ? "peer" : "some";
    char number[16] = "port";
    if (port == 0 || (port >= 7000 && port < 7100)) snprintf(number, sizeof number, "%d", port);
    say(key, "%s%s:%s,%d", mapped ? "mapped-" : six ? "v6-" : "v4-", what, number, name.length);
}

void received(const char *key, int fd, size_t size, int flags) {
    char *bytes = calloc(1, size + 1);
    ssize_t got = recv(fd, bytes, size, flags);
    int number = errno;
    // Long ones by their length; the peer's bytes are always the same.
    if (got > 0 && got <= 16) {
        for (char *c = bytes; c < bytes + got; c++)
            if (*c <= ' ') *c = '.';
        say(key, "%zd:%s", got, bytes);
    } else {
        errno = number;
        result(key, got);
    }
    free(bytes);
}

void drain(int fd) {
    char bytes[16384];
    while (recv(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0) {}
}

void pause_ms(int ms) { usleep(ms * 1000); }

// The cases, one by one for each family; several processes work on them.
enum { RUNS_MAX = 1024, WORKERS = REACHED_COUNT };
struct shared {
    int next;
    char lines[RUNS_MAX][LINE_BYTES];
} *shared;
static struct {
    const struct test *test;
    int family;
} runs[RUNS_MAX];
int reached_port;

// Runs a case in a process of its own, with what can go wrong there.
static void run(const struct test *test) {
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setpgid(0, 0);
        alarm(CASE_SECONDS);
        test->run();
        exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    // What it left: the next case of this worker finds nothing of it.
    kill(-child, SIGKILL);
    while (waitpid(-1, NULL, 0) > 0) {}
    if (WIFSIGNALED(status)) say("DIED", "%s", sigabbrev_np(WTERMSIG(status)));
}

static void work(int worker, int count) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (int next; (next = __sync_fetch_and_add(&shared->next, 1)) < count;) {
        line = shared->lines[next];
        family = runs[next].family;
        reached_port = REACHED + worker + (family == V6 ? REACHED_COUNT : 0);
        run(runs[next].test);
    }
    exit(0);
}

static bool is_wanted(const char *name, char **words) {
    for (char **word = words; *word; word++)
        if (strstr(name, *word)) return true;
    return !*words;
}

static int collect(char **words) {
    const struct test *tables[] = {CONNECT_CASES, NAME_CASES,    DATA_CASES,    END_CASES,   POLL_CASES,
                                   CONTROL_CASES, PROCESS_CASES, SERVER_CASES, OPTION_CASES};
    int count = 0;
    for (size_t table = 0; table < sizeof tables / sizeof *tables; table++)
        for (const struct test *test = tables[table]; test->name; test++)
            for (int each = V4; each <= MAPPED; each *= 2)
                if (test->families & each && is_wanted(test->name, words) && count < RUNS_MAX) {
                    runs[count].test = test;
                    runs[count++].family = each;
                }
    return count;
}

int main(int argc, char **argv) {
    if (argc > 2 && !strcmp(argv[1], "peer")) return peer(argc - 2, argv + 2);
    if (argc > 2 && !strcmp(argv[1], "helper")) return helper(argc - 2, argv + 2);
    if (argc < 3 || strcmp(argv[1], "run")) return fprintf(stderr, "usage: see the head of main.c\n"), 2;
    native = !strcmp(argv[2], "native");
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int count = collect(argv + 3);
    for (int worker = 0; worker < WORKERS; worker++)
        if (fork() == 0) work(worker, count);
    while (wait(NULL) > 0) {}
    for (int i = 0; i < count; i++) {
        const char *name = runs[i].family == V4 ? "v4" : runs[i].family == V6 ? "v6" : "mapped";
        printf("%s/%s%s\n", runs[i].test->name, name, shared->lines[i]);
    }
    puts("end");
}
