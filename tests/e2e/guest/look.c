/* Resolves a name, connects to its first address, and holds the connection until its input ends.

       look NAME PORT

   Built against glibc, and statically against musl. */

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **words)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list, *at;
    char text[INET6_ADDRSTRLEN], piece[64];
    int error, sock;

    if (count != 3)
        return 64;
    error = getaddrinfo(words[1], words[2], &hints, &list);
    if (error) {
        printf("no address: %s\n", gai_strerror(error));
        return 1;
    }
    for (at = list; at; at = at->ai_next) {
        getnameinfo(at->ai_addr, at->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST);
        printf("address %s\n", text);
    }
    sock = socket(list->ai_family, SOCK_STREAM, 0);
    error = connect(sock, list->ai_addr, list->ai_addrlen) ? errno : 0;
    printf("connect %d\n", error);
    if (!error && write(sock, "hello", 5) == 5)
        printf("echo %.*s\n", (int)read(sock, piece, sizeof piece), piece);
    printf("done\n");
    fflush(stdout);
    while (read(0, piece, sizeof piece) > 0)
        ;
    return 0;
}
