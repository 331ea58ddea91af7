/* A tour of VM RPC for guests, in C: every call of the library, and every error that a program meets.
 * The same as examples/modules/src/bin/tour.rs.
 *
 *   cc -I guest/vmrpc-c/include -o tour examples/c/tour.c liboutsock_rpc.a -lpthread -ldl -lm
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "outsock_rpc.h"

enum { PUT = 1, GET = 2, DELETE = 3 };
enum { PATIENCE_MS = 60000, HOUR_MS = 3600000, THREADS = 64 };

static void fail(const char *what, int error)
{
    fprintf(stderr, "tour: %s: %s: %s\n", what, outsock_error_name(error), outsock_error_text(error));
    exit(1);
}

#define DO(what, call)             \
    do {                           \
        int error_ = (call);       \
        if (error_ != 0)           \
            fail(what, error_);    \
    } while (0)

static void want(const char *what, const char *name, int wanted, int found)
{
    if (found != wanted)
        fail(what, found);
    printf("%s: %s\n", what, name);
}

/* A Unix socket that leads to the gateway, for tests; a real guest needs only outsock_connect(). */
static outsock_client *connected(void)
{
    outsock_client *client;
    const char *path = getenv("OUTSOCK_RPC_SOCKET");
    if (path == NULL) {
        DO("connect", outsock_connect(&client));
        return client;
    }
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        perror("tour: connect");
        exit(1);
    }
    DO("connect", outsock_connect_fd(fd, &client));
    return client;
}

static int put(outsock_binding *kv, const char *key, const void *value, size_t bytes)
{
    size_t length = strlen(key);
    unsigned char *arguments = malloc(2 + length + bytes);
    arguments[0] = (unsigned char)(length & 0xff);
    arguments[1] = (unsigned char)(length >> 8);
    memcpy(arguments + 2, key, length);
    memcpy(arguments + 2 + length, value, bytes);
    int error = outsock_perform_rpc(kv, PUT, arguments, 2 + length + bytes, NULL, NULL);
    free(arguments);
    return error;
}

/* Whether the value of a key is these bytes. */
static int holds(outsock_binding *kv, const char *key, const void *value, size_t bytes)
{
    void *found;
    size_t length;
    DO("get", outsock_perform_rpc(kv, GET, key, strlen(key), &found, &length));
    int same = length == bytes && memcmp(found, value, bytes) == 0;
    outsock_free(found, length);
    return same;
}

static void binding(outsock_client *client)
{
    outsock_binding *module;
    want("bind nothing", "NoSuchModule", OUTSOCK_E_NO_SUCH_MODULE,
         outsock_bind_module(client, "nothing", 1, 9, &module));
    want("bind kv", "UnsupportedVersion", OUTSOCK_E_UNSUPPORTED_VERSION,
         outsock_bind_module(client, "kv", 90, 99, &module));
    want("bind secret", "NotAllowed", OUTSOCK_E_NOT_ALLOWED,
         outsock_bind_module(client, "secret", 1, 9, &module));
    DO("bind", outsock_bind_module(client, "kv", 1, 9, &module));
    printf("bind kv: version %u\n", outsock_version(module));
    DO("unbind", outsock_unbind_module(module));
    printf("unbind kv\n");
}

struct job {
    outsock_binding *kv;
    unsigned char number;
    int right;
};

static void *one_thread(void *argument)
{
    struct job *job = argument;
    char key[16];
    snprintf(key, sizeof key, "key %d", job->number);
    DO("put", put(job->kv, key, &job->number, 1));
    job->right = holds(job->kv, key, &job->number, 1);
    return NULL;
}

static void calls(outsock_client *client)
{
    static const size_t sizes[] = {0, 4096, 60000};
    static char value[60000];
    outsock_binding *kv;
    DO("bind", outsock_bind_module(client, "kv", 1, 2, &kv));
    memset(value, 'x', sizeof value);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        DO("put", put(kv, "key", value, sizes[i]));
        if (!holds(kv, "key", value, sizes[i]))
            fail("another value came back", 0);
        printf("put and get %zu bytes\n", sizes[i]);
    }
    DO("delete", outsock_perform_rpc(kv, DELETE, "key", 3, NULL, NULL));
    want("get", "ENOENT", ENOENT, outsock_perform_rpc(kv, GET, "key", 3, NULL, NULL));
    want("call 99", "NoSuchFunction", OUTSOCK_E_NO_SUCH_FUNCTION,
         outsock_perform_rpc(kv, 99, NULL, 0, NULL, NULL));
    pthread_t threads[THREADS];
    struct job jobs[THREADS];
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (struct job){kv, (unsigned char)i, 0};
        if (pthread_create(&threads[i], NULL, one_thread, &jobs[i]) != 0)
            fail("no thread", 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        if (!jobs[i].right)
            fail("another thread's value came back", 0);
    }
    printf("64 threads at once\n");
    DO("unbind", outsock_unbind_module(kv));
}

static void events(outsock_client *client)
{
    static const unsigned char hour[4] = {HOUR_MS & 0xff, HOUR_MS >> 8 & 0xff, HOUR_MS >> 16 & 0xff, 0};
    static char large[40000];
    outsock_binding *ticker;
    outsock_queue *queue;
    void *bytes;
    size_t length;
    DO("bind", outsock_bind_module(client, "ticker", 1, 1, &ticker));
    DO("start", outsock_perform_rpc(ticker, 1, hour, sizeof hour, &bytes, &length));
    DO("open", outsock_open_ev_queue(ticker, bytes, &queue));
    outsock_free(bytes, length);
    fprintf(stderr, "events travel through %s\n",
            outsock_queue_is_shared(queue) ? "shared memory" : "stream");
    for (unsigned tick = 0; tick < 1000; tick++) {
        DO("tick", outsock_get_event(queue, &bytes, &length, PATIENCE_MS));
        const unsigned char *number = bytes;
        if (length != 8 || (number[0] | number[1] << 8) != (int)tick)
            fail("ticks came out of order", 0);
        outsock_free(bytes, length);
        DO("put", outsock_put_event(queue, hour, sizeof hour, 0));
    }
    printf("1000 events each way\n");
    DO("tick", outsock_get_event(queue, &bytes, &length, PATIENCE_MS));
    outsock_free(bytes, length);
    if (outsock_get_event(queue, &bytes, &length, 0) != OUTSOCK_E_EMPTY)
        fail("a tick too many", 0);
    printf("then the queue is empty\n");
    want("40000 bytes", "TooLarge", OUTSOCK_E_EVENT_TOO_LARGE,
         outsock_put_event(queue, large, sizeof large, 0));
    DO("unbind", outsock_unbind_module(ticker));
    want("after unbind", "Deleted", OUTSOCK_E_QUEUE_DELETED,
         outsock_get_event(queue, &bytes, &length, PATIENCE_MS));
    outsock_close_ev_queue(queue);
}

int main(void)
{
    outsock_client *client = connected();
    binding(client);
    calls(client);
    events(client);
    outsock_disconnect(client);
    return 0;
}
