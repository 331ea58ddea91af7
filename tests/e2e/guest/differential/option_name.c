// Names of options, by number. What a kernel or this table does not know is called by its number.
#include "frame.h"

struct option_name {
    int number;
    const char *name;
};

// The same at both levels of IP.
#define MULTICAST                                                                                       \
    {42, "MCAST_JOIN_GROUP"}, {43, "MCAST_BLOCK_SOURCE"}, {44, "MCAST_UNBLOCK_SOURCE"},                 \
        {45, "MCAST_LEAVE_GROUP"}, {46, "MCAST_JOIN_SOURCE_GROUP"}, {47, "MCAST_LEAVE_SOURCE_GROUP"},   \
        {48, "MCAST_MSFILTER"}

static const struct option_name SOCKET[] = {
    {1, "DEBUG"}, {2, "REUSEADDR"}, {3, "TYPE"}, {4, "ERROR"}, {5, "DONTROUTE"}, {6, "BROADCAST"}, {7, "SNDBUF"},
    {8, "RCVBUF"}, {9, "KEEPALIVE"}, {10, "OOBINLINE"}, {11, "NO_CHECK"}, {12, "PRIORITY"}, {13, "LINGER"},
    {14, "BSDCOMPAT"}, {15, "REUSEPORT"}, {16, "PASSCRED"}, {17, "PEERCRED"}, {18, "RCVLOWAT"}, {19, "SNDLOWAT"},
    {20, "RCVTIMEO"}, {21, "SNDTIMEO"}, {22, "SECURITY_AUTHENTICATION"}, {23, "SECURITY_ENCRYPTION_TRANSPORT"},
    {24, "SECURITY_ENCRYPTION_NETWORK"}, {25, "BINDTODEVICE"}, {26, "ATTACH_FILTER"}, {27, "DETACH_FILTER"},
    {28, "PEERNAME"}, {29, "TIMESTAMP_OLD"}, {30, "ACCEPTCONN"}, {31, "PEERSEC"}, {32, "SNDBUFFORCE"},
    {33, "RCVBUFFORCE"}, {34, "PASSSEC"}, {35, "TIMESTAMPNS_OLD"}, {36, "MARK"}, {37, "TIMESTAMPING_OLD"},
    {38, "PROTOCOL"}, {39, "DOMAIN"}, {40, "RXQ_OVFL"}, {41, "WIFI_STATUS"}, {42, "PEEK_OFF"}, {43, "NOFCS"},
    {44, "LOCK_FILTER"}, {45, "SELECT_ERR_QUEUE"}, {46, "BUSY_POLL"}, {47, "MAX_PACING_RATE"},
    {48, "BPF_EXTENSIONS"}, {49, "INCOMING_CPU"}, {50, "ATTACH_BPF"}, {51, "ATTACH_REUSEPORT_CBPF"},
    {52, "ATTACH_REUSEPORT_EBPF"}, {53, "CNX_ADVICE"}, {55, "MEMINFO"}, {56, "INCOMING_NAPI_ID"}, {57, "COOKIE"},
    {59, "PEERGROUPS"}, {60, "ZEROCOPY"}, {61, "TXTIME"}, {62, "BINDTOIFINDEX"}, {63, "TIMESTAMP_NEW"},
    {64, "TIMESTAMPNS_NEW"}, {65, "TIMESTAMPING_NEW"}, {66, "RCVTIMEO_NEW"}, {67, "SNDTIMEO_NEW"},
    {68, "DETACH_REUSEPORT_BPF"}, {69, "PREFER_BUSY_POLL"}, {70, "BUSY_POLL_BUDGET"}, {71, "NETNS_COOKIE"},
    {72, "BUF_LOCK"}, {73, "RESERVE_MEM"}, {74, "TXREHASH"}, {75, "RCVMARK"}, {76, "PASSPIDFD"}, {77, "PEERPIDFD"}, {78, "DEVMEM_LINEAR"},
    {79, "DEVMEM_DMABUF"}, {80, "DEVMEM_DONTNEED"}, {81, "RCVPRIORITY"}, {82, "PASSRIGHTS"}, {83, "INQ"},
    {0, NULL},
};

static const struct option_name TCP[] = {
    {1, "NODELAY"}, {2, "MAXSEG"}, {3, "CORK"}, {4, "KEEPIDLE"}, {5, "KEEPINTVL"}, {6, "KEEPCNT"}, {7, "SYNCNT"},
    {8, "LINGER2"}, {9, "DEFER_ACCEPT"}, {10, "WINDOW_CLAMP"}, {11, "INFO"}, {12, "QUICKACK"}, {13, "CONGESTION"},
    {14, "MD5SIG"}, {16, "THIN_LINEAR_TIMEOUTS"}, {17, "THIN_DUPACK"}, {18, "USER_TIMEOUT"}, {19, "REPAIR"},
    {20, "REPAIR_QUEUE"}, {21, "QUEUE_SEQ"}, {23, "FASTOPEN"}, {24, "TIMESTAMP"}, {25, "NOTSENT_LOWAT"},
    {26, "CC_INFO"}, {27, "SAVE_SYN"}, {28, "SAVED_SYN"}, {29, "REPAIR_WINDOW"}, {30, "FASTOPEN_CONNECT"},
    {31, "ULP"}, {33, "FASTOPEN_KEY"}, {34, "FASTOPEN_NO_COOKIE"}, {35, "ZEROCOPY_RECEIVE"}, {36, "INQ"},
    {37, "TX_DELAY"}, {38, "AO_ADD_KEY"}, {39, "AO_DEL_KEY"}, {40, "AO_INFO"}, {41, "AO_GET_KEYS"},
    {42, "AO_REPAIR"}, {43, "IS_MPTCP"}, {44, "RTO_MAX_MS"}, {45, "RTO_MIN_US"}, {46, "DELACK_MAX_US"},
    {0, NULL},
};

static const struct option_name IP[] = {
    MULTICAST,
    {1, "TOS"}, {2, "TTL"}, {3, "HDRINCL"}, {4, "OPTIONS"}, {5, "ROUTER_ALERT"}, {6, "RECVOPTS"}, {7, "RETOPTS"},
    {8, "PKTINFO"}, {9, "PKTOPTIONS"}, {10, "MTU_DISCOVER"}, {11, "RECVERR"}, {12, "RECVTTL"}, {13, "RECVTOS"},
    {14, "MTU"}, {15, "FREEBIND"}, {16, "IPSEC_POLICY"}, {17, "XFRM_POLICY"}, {18, "PASSSEC"}, {19, "TRANSPARENT"},
    {20, "ORIGDSTADDR"}, {21, "MINTTL"}, {22, "NODEFRAG"}, {23, "CHECKSUM"}, {24, "BIND_ADDRESS_NO_PORT"},
    {25, "RECVFRAGSIZE"}, {26, "RECVERR_RFC4884"}, {32, "MULTICAST_IF"}, {33, "MULTICAST_TTL"},
    {34, "MULTICAST_LOOP"}, {35, "ADD_MEMBERSHIP"}, {36, "DROP_MEMBERSHIP"}, {37, "UNBLOCK_SOURCE"},
    {38, "BLOCK_SOURCE"}, {39, "ADD_SOURCE_MEMBERSHIP"}, {40, "DROP_SOURCE_MEMBERSHIP"}, {41, "MSFILTER"},
    {49, "MULTICAST_ALL"}, {50, "UNICAST_IF"}, {51, "LOCAL_PORT_RANGE"}, {52, "PROTOCOL"},
    {0, NULL},
};

static const struct option_name IPV6[] = {
    {1, "ADDRFORM"}, {2, "2292PKTINFO"}, {3, "2292HOPOPTS"}, {4, "2292DSTOPTS"}, {5, "2292RTHDR"}, {8, "2292HOPLIMIT"},
    {11, "FLOWINFO"}, {32, "FLOWLABEL_MGR"}, {33, "FLOWINFO_SEND"}, {49, "RECVPKTINFO"},
    MULTICAST,
    {6, "2292PKTOPTIONS"}, {9, "NEXTHOP"}, {10, "AUTHHDR"}, {16, "UNICAST_HOPS"}, {17, "MULTICAST_IF"},
    {18, "MULTICAST_HOPS"}, {19, "MULTICAST_LOOP"}, {20, "ADD_MEMBERSHIP"}, {21, "DROP_MEMBERSHIP"},
    {22, "ROUTER_ALERT"}, {23, "MTU_DISCOVER"}, {24, "MTU"}, {25, "RECVERR"}, {26, "V6ONLY"}, {27, "JOIN_ANYCAST"},
    {28, "LEAVE_ANYCAST"}, {29, "MULTICAST_ALL"}, {30, "ROUTER_ALERT_ISOLATE"}, {31, "RECVERR_RFC4884"},
    {34, "IPSEC_POLICY"}, {35, "XFRM_POLICY"}, {36, "HDRINCL"}, {50, "PKTINFO"}, {51, "RECVHOPLIMIT"},
    {52, "HOPLIMIT"}, {53, "RECVHOPOPTS"}, {54, "HOPOPTS"}, {55, "RTHDRDSTOPTS"}, {56, "RECVRTHDR"}, {57, "RTHDR"},
    {58, "RECVDSTOPTS"}, {59, "DSTOPTS"}, {60, "RECVPATHMTU"}, {61, "PATHMTU"}, {62, "DONTFRAG"},
    {63, "USE_MIN_MTU"}, {66, "RECVTCLASS"}, {67, "TCLASS"}, {70, "AUTOFLOWLABEL"}, {72, "ADDR_PREFERENCES"},
    {73, "MINHOPCOUNT"}, {74, "ORIGDSTADDR"}, {75, "TRANSPARENT"}, {76, "UNICAST_IF"}, {77, "RECVFRAGSIZE"},
    {78, "FREEBIND"},
    {0, NULL},
};

const char *option_name(int level, int number) {
    static char unknown[16];
    const struct option_name *names =
        level == SOL_SOCKET ? SOCKET : level == IPPROTO_TCP ? TCP : level == IPPROTO_IP ? IP : IPV6;
    for (; names->name; names++)
        if (names->number == number) return names->name;
    snprintf(unknown, sizeof unknown, "%d", number);
    return unknown;
}
