#!/bin/sh
# nginx.sh PORT FILES UPSTREAM: two workers with a listener each, static files, and a proxy that keeps its connections.
mkdir -p /tmp/nginx-$1
cat >/tmp/nginx-$1/conf <<END
worker_processes 2;
daemon off;
pid /tmp/nginx-$1/pid;
error_log stderr;
events { worker_connections 512; }
http {
    access_log off;
    client_body_temp_path /tmp/nginx-$1/body;
    proxy_temp_path /tmp/nginx-$1/proxy;
    fastcgi_temp_path /tmp/nginx-$1/fastcgi;
    uwsgi_temp_path /tmp/nginx-$1/uwsgi;
    scgi_temp_path /tmp/nginx-$1/scgi;
    upstream far { server $3; keepalive 8; }
    server {
        listen $1 reuseport;
        listen [::]:$1 reuseport;
        root $2;
        sendfile on;
        location /proxy/ {
            proxy_pass http://far/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }
    }
}
END
exec nginx -c /tmp/nginx-$1/conf -p /tmp/nginx-$1
