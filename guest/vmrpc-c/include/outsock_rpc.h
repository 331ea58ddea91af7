/* VM RPC: calls from a program in a guest to host modules of outsock-gateway, and event queues.
 *
 * Link with -loutsock_rpc (shared), or with liboutsock_rpc.a -lpthread -ldl -lm (static).
 *
 * Return values. Functions return 0 when done. A positive value is the errno (as in errno.h) that the
 * module's function failed with. A negative value is one of the OUTSOCK_E_ codes below:
 * outsock_error_name() and outsock_error_text() say what it means.
 *
 * Ownership. What a function gives through a pointer to a pointer is the caller's; each kind names
 * what gives it back. A handle may be used by any number of threads at once, but not after it was
 * given back. Handles may be given back in any order; the stream closes with the last.
 *
 * Units. Lengths are bytes, at most 65,536 for arguments, results and events; timeouts are
 * milliseconds, 0 = do not wait, negative = for as long as it takes.
 */
#ifndef OUTSOCK_RPC_H
#define OUTSOCK_RPC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The gateway says: */
#define OUTSOCK_E_UNSUPPORTED_PROTOCOL (-1)
#define OUTSOCK_E_NO_SUCH_MODULE (-2)
#define OUTSOCK_E_UNSUPPORTED_VERSION (-3)
#define OUTSOCK_E_NOT_ALLOWED (-4)
#define OUTSOCK_E_NO_SUCH_HANDLE (-5)
#define OUTSOCK_E_NO_SUCH_FUNCTION (-6)
#define OUTSOCK_E_BAD_ARGUMENTS (-7)
#define OUTSOCK_E_TOO_MANY (-8)
#define OUTSOCK_E_MODULE_GONE (-9)
#define OUTSOCK_E_RESULT_TOO_LARGE (-10)
#define OUTSOCK_E_MODULE_UNAVAILABLE (-11)
#define OUTSOCK_E_NO_SUCH_QUEUE (-12)
#define OUTSOCK_E_QUEUE_NOT_SHARED (-13)
#define OUTSOCK_E_ALREADY_SERVED (-14)
/* This side says: */
#define OUTSOCK_E_DISCONNECTED (-100)        /* the stream to the gateway is gone */
#define OUTSOCK_E_PROTOCOL (-101)            /* the gateway sent no frames */
#define OUTSOCK_E_ARGUMENTS_TOO_LARGE (-102)
#define OUTSOCK_E_UNREACHABLE (-103)         /* no gateway at vsock CID 2, port 1042; see errno */
#define OUTSOCK_E_INVALID (-104)             /* a null pointer, or a name that is not UTF-8 */
/* An event queue says: */
#define OUTSOCK_E_FULL (-200)
#define OUTSOCK_E_EMPTY (-201)
#define OUTSOCK_E_EVENT_TOO_LARGE (-202)     /* longer than half of the queue */
#define OUTSOCK_E_QUEUE_DELETED (-203)
#define OUTSOCK_E_QUEUE_MODULE_GONE (-204)
#define OUTSOCK_E_QUEUE_DISCONNECTED (-205)
#define OUTSOCK_E_QUEUE_GARBLED (-206)
#define OUTSOCK_E_QUEUE_UNMAPPED (-207)

typedef struct outsock_client outsock_client;
typedef struct outsock_binding outsock_binding;
typedef struct outsock_queue outsock_queue;

/* Connects to the gateway. Root gets event queues in shared memory. */
int outsock_connect(outsock_client **client);

/* Takes a connected stream socket, which the library closes. */
int outsock_connect_fd(int fd, outsock_client **client);

void outsock_disconnect(outsock_client *client);

/* Binds a host module at the highest version of first..last that it serves. */
int outsock_bind_module(outsock_client *client, const char *name, uint16_t first, uint16_t last,
                        outsock_binding **binding);

/* The version that was picked. */
uint16_t outsock_version(const outsock_binding *binding);

/* Gives the binding back; its event queues end. */
int outsock_unbind_module(outsock_binding *binding);

/* Calls a function and waits for its result, which outsock_free() gives back. result may be NULL when
 * it does not matter. */
int outsock_perform_rpc(outsock_binding *binding, uint32_t function, const void *arguments,
                        size_t arguments_bytes, void **result, size_t *result_bytes);

void outsock_free(void *bytes, size_t length);

/* Opens the event queue whose ticket (8 bytes) a function of the module gave. */
int outsock_open_ev_queue(outsock_binding *binding, const uint8_t ticket[8], outsock_queue **queue);

/* Whether its events go through shared memory (1), or over the stream (0). */
int outsock_queue_is_shared(const outsock_queue *queue);

/* Puts an event in; OUTSOCK_E_FULL when there was no room in time. */
int outsock_put_event(outsock_queue *queue, const void *event, size_t bytes, int timeout_ms);

/* Takes an event out, which outsock_free() gives back; OUTSOCK_E_EMPTY when none came in time. */
int outsock_get_event(outsock_queue *queue, void **event, size_t *bytes, int timeout_ms);

void outsock_close_ev_queue(outsock_queue *queue);

/* The name of a return value, such as "OUTSOCK_E_NOT_ALLOWED" or "ENOENT"; what it means. */
const char *outsock_error_name(int error);
const char *outsock_error_text(int error);

#ifdef __cplusplus
}
#endif

#endif
