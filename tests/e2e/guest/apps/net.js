// Node: an HTTP server that answers with a body's digest, and a client that keeps its connections.
//
//     net.js serve PORT          net.js get URL SHA256 TIMES
const http = require('http');
const { createHash } = require('crypto');

const [, , what, ...words] = process.argv;

function serve(port) {
    const server = http.createServer((request, response) => {
        const hash = createHash('sha256');
        request.on('data', (piece) => hash.update(piece));
        request.on('end', () => response.end(hash.digest('hex') + '\n'));
    });
    server.listen(Number(port));
}

function get(url, agent) {
    return new Promise((resolve, reject) => {
        http.get(url, { agent }, (response) => {
            const hash = createHash('sha256');
            response.on('data', (piece) => hash.update(piece));
            response.on('end', () => resolve(hash.digest('hex')));
            response.on('error', reject);
        }).on('error', reject);
    });
}

async function main() {
    if (what === 'serve') return serve(words[0]);
    const [url, wanted, times] = words;
    const agent = new http.Agent({ keepAlive: true, maxSockets: 8 });
    const digests = await Promise.all(Array.from({ length: Number(times) }, () => get(url, agent)));
    if (digests.some((digest) => digest !== wanted)) throw new Error('another digest');
    console.log(`${digests.length} digests equal`);
    agent.destroy();
}

main();
