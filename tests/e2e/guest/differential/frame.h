// Frame of the differential program: what a case may use.
//
// A case makes sockets of `family`, does things, and says what it saw. Nothing that it says may depend on anything
// but the behaviour of sockets: no port numbers, no times, no addresses of memory.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

// Which sockets a case is run with.
enum { V4 = 1, V6 = 2, MAPPED = 4, EACH = V4 | V6 | MAPPED };
extern int family;
extern int reached_port;  // where a server of this case can be reached: no other case uses it meanwhile

// Where the peer listens, as the client knows it. `peer.c` does what each port's name says.
enum {
    SCRIPT = 7000,  // does what it is told, see peer.c
    SILENT = 7001,  // never answers a SYN
    CLOSED = 7002,  // refuses
    GREETING = 7003,  // says "hello\n", then echoes
    DIALLER = 7004,  // connects back
    REACHED = 7010,  // where a server can be reached: over IPv4, then so many over IPv6
    REACHED_COUNT = 4,
};
// Hosts to which there is no way, each for another reason.
enum where { PEER, NO_NETWORK, NO_HOST, DENIED, ANY, OWN };

struct address {
    socklen_t length;
    union {
        struct sockaddr name;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        char bytes[128];
    };
};

struct address address_of(enum where where, int port);
bool is_native(void);  // the run without outsock; only for waiting longer, never for what is expected

int tcp(void);
int tcp_nonblocking(void);
int dial(int fd, int port);  // connect() to a port of the peer
int connected(int port);  // a blocking socket that is connected, or the case fails
int scripted(const char *script);  // connected to SCRIPT, script sent
void tell(int fd, const char *script);  // '@' in it becomes the family
char *ask(const char *question);  // one line of the peer's answer on another connection

// What was seen.
void say(const char *key, const char *format, ...) __attribute__((format(printf, 2, 3)));
void result(const char *key, long value);  // a number, or the errno's name if it is negative
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
const char *error_name(int number);

int events(int fd, int wanted, int timeout_ms);  // revents of poll()
void polled(const char *key, int fd, int timeout_ms);  // waits for IN, PRI, OUT or RDHUP, says all bits
void waited(const char *key, int fd, int wanted);  // waits for these, or for a failure
const char *poll_bits(int bits);
void so_error(const char *key, int fd);
void name_of(const char *key, int fd, bool peers);
void received(const char *key, int fd, size_t size, int flags);  // recv() and what came
void drain(int fd);  // reads what is there
void pause_ms(int ms);

#define PATIENCE_MS 20000
#define A_MOMENT_MS 300  // for what must not happen

struct test {
    const char *name;
    int families;
    void (*run)(void);
};
extern const struct test CONNECT_CASES[], NAME_CASES[], OPTION_CASES[], DATA_CASES[], END_CASES[], POLL_CASES[],
    CONTROL_CASES[], PROCESS_CASES[], SERVER_CASES[];
const char *option_name(int level, int number);
int peer(int argc, char **argv);
int helper(int argc, char **argv);  // what an exec'ed program does
