"""A server and a client in the guest, over its own loopback."""

import socket
import threading

listener = socket.create_server(("127.0.0.1", 0))


def serve():
    connection, _ = listener.accept()
    with connection:
        connection.sendall(connection.recv(100))


thread = threading.Thread(target=serve)
thread.start()
with socket.create_connection(listener.getsockname(), timeout=10) as client:
    assert client.family == socket.AF_INET and client.getpeername() == listener.getsockname()
    client.sendall(b"stays here")
    assert client.recv(100) == b"stays here"
thread.join()
print("stayed in the guest")
