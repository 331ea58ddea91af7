// Java: HttpClient, a selector's client that registers before it connects, and a selector's echo server.
//
//     Net get URL SHA256          Net echo HOST PORT CONNECTIONS          Net serve PORT
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.security.MessageDigest;
import java.util.HexFormat;

public class Net {
    public static void main(String[] arguments) throws Exception {
        switch (arguments[0]) {
            case "get" -> get(arguments[1], arguments[2]);
            case "echo" -> echo(arguments[1], Integer.parseInt(arguments[2]), Integer.parseInt(arguments[3]));
            default -> serve(Integer.parseInt(arguments[1]));
        }
    }

    static void get(String url, String wanted) throws Exception {
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        HttpRequest request = HttpRequest.newBuilder(URI.create(url)).build();
        byte[] body = client.send(request, HttpResponse.BodyHandlers.ofByteArray()).body();
        String digest = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(body));
        if (!digest.equals(wanted)) throw new Exception(body.length + " bytes, " + digest);
        System.out.println("digest equal");
    }

    static void echo(String host, int port, int connections) throws Exception {
        Selector selector = Selector.open();
        byte[] said = "said by Java ".repeat(1000).getBytes();
        for (int i = 0; i < connections; i++) {
            SocketChannel channel = SocketChannel.open();
            channel.configureBlocking(false);
            channel.register(selector, SelectionKey.OP_CONNECT, new ByteBuffer[] {
                ByteBuffer.wrap(said), ByteBuffer.allocate(said.length)});
            channel.connect(new InetSocketAddress(host, port));
        }
        int done = 0;
        while (done < connections) {
            selector.select();
            for (SelectionKey key : selector.selectedKeys()) {
                SocketChannel channel = (SocketChannel) key.channel();
                ByteBuffer[] buffers = (ByteBuffer[]) key.attachment();
                if (key.isConnectable() && channel.finishConnect()) {
                    key.interestOps(SelectionKey.OP_READ | SelectionKey.OP_WRITE);
                }
                if (key.isWritable()) {
                    channel.write(buffers[0]);
                    if (!buffers[0].hasRemaining()) {
                        key.interestOps(SelectionKey.OP_READ);
                        channel.shutdownOutput();
                    }
                }
                if (key.isReadable() && channel.read(buffers[1]) < 0 || !buffers[1].hasRemaining()) {
                    if (!buffers[1].flip().equals(ByteBuffer.wrap(said))) throw new Exception("another echo");
                    channel.close();
                    done++;
                }
            }
            selector.selectedKeys().clear();
        }
        System.out.println(done + " echoes");
    }

    static void serve(int port) throws Exception {
        Selector selector = Selector.open();
        ServerSocketChannel server = ServerSocketChannel.open().bind(new InetSocketAddress(port));
        server.configureBlocking(false);
        server.register(selector, SelectionKey.OP_ACCEPT);
        while (true) {
            selector.select();
            for (SelectionKey key : selector.selectedKeys()) {
                if (key.isAcceptable()) {
                    SocketChannel channel = server.accept();
                    if (channel == null) continue;
                    channel.configureBlocking(false);
                    channel.register(selector, SelectionKey.OP_READ, ByteBuffer.allocate(65536));
                } else {
                    pass(key);
                }
            }
            selector.selectedKeys().clear();
        }
    }

    static void pass(SelectionKey key) {
        SocketChannel channel = (SocketChannel) key.channel();
        ByteBuffer buffer = (ByteBuffer) key.attachment();
        try {
            boolean ended = channel.read(buffer) < 0;
            buffer.flip();
            channel.write(buffer);
            boolean left = buffer.hasRemaining();
            buffer.compact();
            if (ended && !left) channel.close();
            else key.interestOps(left ? SelectionKey.OP_WRITE | SelectionKey.OP_READ : SelectionKey.OP_READ);
        } catch (java.io.IOException error) {
            key.cancel();
            try {
                channel.close();
            } catch (java.io.IOException ignored) {
            }
        }
    }
}
