// The module `hostinfo`: the host's boot clock and load, read in the host's kernel. Build it:
//
//   clang -O2 -g -target bpf -c -o hostinfo.bpf.o examples/ebpf/hostinfo.bpf.c
//
// and name it in the gateway's configuration:
//
//   [[module]]
//   name = "hostinfo"
//   guests = ["*"]
//   object = "/usr/lib/outsock/hostinfo.bpf.o"
//   functions = ["boot_clock", "load", "calls"]
//
// Function 1, boot_clock: nanoseconds since the host booted, 64 bits.
// Function 2, load: the load averages of 1, 5 and 15 minutes, each 64 bits in units of 1/2048; ENOENT
// where the kernel does not list its variables (CONFIG_KALLSYMS_ALL, which distributions set).
// Function 3, calls: how often function 1 was called, 64 bits: an object may have state of its own.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define UINT(name, value) int(*name)[value]
#define TYPE(name, type) type *name

enum { BPF_MAP_TYPE_ARRAY = 2 };

// include/uapi/linux/bpf.h; libbpf's headers would do, this spares the package.
static void *(*map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*probe_read_kernel)(void *to, u32 bytes, const void *from) = (void *)113;
static u64 (*ktime_get_boot_ns)(void) = (void *)125;
static long (*kallsyms_lookup_name)(const char *name, int bytes, int flags, u64 *address) = (void *)179;

// gateway/daemon/src/ebpf.rs
struct outsock_call {
    u32 arguments_bytes;
    u32 result_bytes;
    u64 cid;
    u8 data[4096];
};

struct {
    UINT(type, BPF_MAP_TYPE_ARRAY);
    UINT(max_entries, 1);
    TYPE(key, u32);
    TYPE(value, u64);
} called SEC(".maps");

enum { EINVAL = 22, ENOENT = 2 };

SEC("syscall")
int boot_clock(struct outsock_call *call)
{
    u32 zero = 0;
    u64 *count = map_lookup_elem(&called, &zero);
    if (count)
        __sync_fetch_and_add(count, 1);
    *(u64 *)call->data = ktime_get_boot_ns();
    call->result_bytes = 8;
    return 0;
}

SEC("syscall")
int load(struct outsock_call *call)
{
    char name[] = "avenrun";
    u64 address = 0;
    u64 averages[3] = {};
    if (call->arguments_bytes != 0)
        return EINVAL;
    if (kallsyms_lookup_name(name, sizeof name, 0, &address) != 0)
        return ENOENT;
    if (probe_read_kernel(averages, sizeof averages, (void *)address) != 0)
        return ENOENT;
    u64 *result = (u64 *)call->data;
    result[0] = averages[0];
    result[1] = averages[1];
    result[2] = averages[2];
    call->result_bytes = 24;
    return 0;
}

SEC("syscall")
int calls(struct outsock_call *call)
{
    u32 zero = 0;
    u64 *count = map_lookup_elem(&called, &zero);
    *(u64 *)call->data = count ? *count : 0;
    call->result_bytes = 8;
    return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
