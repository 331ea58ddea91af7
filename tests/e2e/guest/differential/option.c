// Cases of getsockopt() and setsockopt(): every name of the four levels, known or not, on a socket that is connected
// and on one that was given the option before it connected.
#include "frame.h"
#include <linux/filter.h>

enum { TCP_NAMES = 48, IP_NAMES = 56, IPV6_NAMES = 84, SOCKET_NAMES = 84, VALUE_BYTES = 64 };

// Values that are the machine's or the moment's, not the option's: only that there is one, and how long.
static bool is_volatile(int level, int name) {
    switch (level) {
    case SOL_SOCKET:
        return name == SO_COOKIE || name == SO_MEMINFO || name == SO_NETNS_COOKIE || name == SO_INCOMING_CPU ||
               name == SO_INCOMING_NAPI_ID;
    case IPPROTO_TCP:
        return name == TCP_INFO || name == TCP_TIMESTAMP || name == TCP_CC_INFO || name == TCP_WINDOW_CLAMP ||
               name == TCP_MAXSEG;
    case IPPROTO_IP:
        return name == 52;  // IP_PROTOCOL: a connected TCP socket tells its port
    default:
        return false;
    }
}

// Setting these takes the socket or the machine apart, or needs memory that stands for something.
static bool is_not_set(int level, int name) {
    switch (level) {
    case SOL_SOCKET:
        return name == SO_ATTACH_FILTER || name == SO_DETACH_FILTER || name == SO_BINDTODEVICE ||
               name == SO_BINDTOIFINDEX || name == SO_ATTACH_BPF || name == SO_DEBUG;
    case IPPROTO_TCP:
        return (name >= TCP_REPAIR && name <= TCP_QUEUE_SEQ) || name == TCP_REPAIR_OPTIONS ||
               name == TCP_REPAIR_WINDOW || name == TCP_ZEROCOPY_RECEIVE;
    default:
        return false;
    }
}

static void value_of(const char *key, int fd, int level, int name, socklen_t room) {
    unsigned char value[512];
    char text[3 * VALUE_BYTES] = "";
    memset(value, 0xee, sizeof value);
    socklen_t length = room;
    if (getsockopt(fd, level, name, value, &length)) return result(key, -1);
    if (is_volatile(level, name)) return say(key, "any,%d", length);
    if (length == 4) {
        int number;
        memcpy(&number, value, 4);
        return say(key, "%d,4", number);
    }
    for (socklen_t i = 0; i < length && i < VALUE_BYTES; i++) sprintf(text + strlen(text), "%02x", value[i]);
    say(key, "%s,%d", text[0] ? text : "-", length);
}

static void set_to(const char *key, int fd, int level, int name, int value, socklen_t length) {
    char bytes[64] = {0};
    memcpy(bytes, &value, sizeof value);
    result(key, setsockopt(fd, level, name, bytes, length));
}

// One option on a connected socket. `early` gives it the value 1 before it connects.
static void one(int level, int name) {
    char key[64];
#define KEY(what) (snprintf(key, sizeof key, "%s:" what, option_name(level, name)), key)
    int fd = connected(SCRIPT);
    value_of(KEY("get"), fd, level, name, 256);
    value_of(KEY("get2"), fd, level, name, 2);
    value_of(KEY("get0"), fd, level, name, 0);
    value_of(KEY("get-negative"), fd, level, name, -1);
    if (is_not_set(level, name)) return (void)close(fd);
    set_to(KEY("set1"), fd, level, name, 1, 4);
    value_of(KEY("is1"), fd, level, name, 256);
    set_to(KEY("set0"), fd, level, name, 0, 4);
    value_of(KEY("is0"), fd, level, name, 256);
    set_to(KEY("set60"), fd, level, name, 60, 4);
    value_of(KEY("is60"), fd, level, name, 256);
    set_to(KEY("set-negative"), fd, level, name, -1, 4);
    value_of(KEY("is-negative"), fd, level, name, 256);
    set_to(KEY("long"), fd, level, name, 1, 64);
    set_to(KEY("short"), fd, level, name, 1, 1);
    set_to(KEY("none"), fd, level, name, 1, 0);
    result(KEY("null"), setsockopt(fd, level, name, NULL, 4));
    value_of(KEY("end"), fd, level, name, 256);
    close(fd);
    fd = tcp();
    set_to(KEY("early"), fd, level, name, 60, 4);
    value_of(KEY("early-is"), fd, level, name, 256);
    int on = 0;
    if (level == IPPROTO_IPV6 && name == IPV6_V6ONLY) setsockopt(fd, level, name, &on, sizeof on);
    result(KEY("connect"), dial(fd, SCRIPT));
    value_of(KEY("later"), fd, level, name, 256);
    set_to(KEY("reset"), fd, level, name, 0, 4);
    close(fd);
}

// A child per option: a few leave their socket unusable.
static void names(int level, int first, int end) {
    for (int name = first; name < end; name++) one(level, name);
}

static void socket_low(void) { names(SOL_SOCKET, 0, 30); }
static void socket_high(void) { names(SOL_SOCKET, 30, SOCKET_NAMES); }
static void tcp_low(void) { names(IPPROTO_TCP, 0, 24); }
static void tcp_high(void) { names(IPPROTO_TCP, 24, TCP_NAMES); }
static void ip_low(void) { names(IPPROTO_IP, 0, 28); }
static void ip_high(void) { names(IPPROTO_IP, 28, IP_NAMES); }
static void ipv6_low(void) { names(IPPROTO_IPV6, 0, 40); }
static void ipv6_high(void) { names(IPPROTO_IPV6, 40, IPV6_NAMES); }

static void levels(void) {
    static const int levels[] = {2, 17, 132, 255, 256, 263, 270, 276, 282, 283, 284, -1, 9999};
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        int fd = connected(SCRIPT);
        char key[32];
        snprintf(key, sizeof key, "get%d", levels[i]);
        value_of(key, fd, levels[i], 1, 256);
        snprintf(key, sizeof key, "set%d", levels[i]);
        set_to(key, fd, levels[i], 1, 1, 4);
        close(fd);
    }
}

static void memory(void) {
    int fd = connected(SCRIPT), value = 1;
    socklen_t length = 4;
    result("get-null", getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, NULL, &length));
    result("get-no-length", getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, NULL));
    result("get-bad", getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, (void *)8, &length));
    result("set-bad", setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, (void *)8, 4));
    result("set-negative", setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, -4));
    result("set-huge", setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, 1 << 30));
    result("closed", getsockopt(4000, IPPROTO_TCP, TCP_NODELAY, &value, &length));
    int ends[2];
    if (pipe(ends)) fail("pipe");
    result("pipe", setsockopt(ends[0], IPPROTO_TCP, TCP_NODELAY, &value, 4));
}

static void congestion(void) {
    char name[16] = "";
    socklen_t length = sizeof name;
    int fd = connected(SCRIPT);
    result("get", getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length));
    say("default", "%s,%d", name, length);
    result("reno", setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
    length = sizeof name;
    getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length);
    say("now", "%s,%d", name, length);
    result("unknown", setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "nosuch", 6));
    result("empty", setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "", 0));
    result("ulp", setsockopt(fd, IPPROTO_TCP, TCP_ULP, "nosuch", 6));
}

static int state_of(int fd) {
    struct tcp_info info = {0};
    socklen_t length = sizeof info;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) ? -1 : info.tcpi_state;
}

static void tcp_state(void) {
    int fd = tcp();
    say("fresh", "%d", state_of(fd));
    dial(fd, SCRIPT);
    say("connected", "%d", state_of(fd));
    tell(fd, "fin\nwait\n");
    events(fd, POLLRDHUP, PATIENCE_MS);
    say("peer-ended", "%d", state_of(fd));
    fd = scripted("wait\n");
    events(fd, POLLIN, 100);
    fd = tcp();
    dial(fd, CLOSED);
    say("refused", "%d", state_of(fd));
    fd = tcp_nonblocking();
    dial(fd, SILENT);
    say("connecting", "%d", state_of(fd));
    fd = scripted("reset\n");
    events(fd, POLLIN, PATIENCE_MS);
    say("reset", "%d", state_of(fd));
    fd = scripted("echo\nabc");
    struct tcp_info info = {0};
    socklen_t length = sizeof info;
    received("echo", fd, 3, MSG_WAITALL);
    getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length);
    say("counts", "%d,%d", info.tcpi_snd_mss > 0, info.tcpi_rtt > 0);
}

static void filter(void) {
    struct sock_filter all[] = {{BPF_RET | BPF_K, 0, 0, 0xffffffff}};
    struct sock_fprog program = {1, all};
    int fd = connected(SCRIPT), zero = 0;
    result("attach", setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    result("detach", setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &zero, sizeof zero));
    result("device", setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
    char name[32] = "";
    socklen_t length = sizeof name;
    result("get-device", getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &length));
    say("name", "%s,%d", name, length);
}

const struct test OPTION_CASES[] = {
    {"option.levels", EACH, levels},
    {"option.memory", EACH, memory},
    {"option.congestion", EACH, congestion},
    {"option.info", EACH, tcp_state},
    {"option.filter", V4, filter},
    {"option.socket-low", EACH, socket_low},
    {"option.socket-high", EACH, socket_high},
    {"option.tcp-low", EACH, tcp_low},
    {"option.tcp-high", EACH, tcp_high},
    {"option.ip-low", EACH, ip_low},
    {"option.ip-high", EACH, ip_high},
    {"option.ipv6-low", V6 | MAPPED, ipv6_low},
    {"option.ipv6-high", V6 | MAPPED, ipv6_high},
    {0},
};
