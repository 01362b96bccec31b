#!/bin/sh
# An instance on nginx with its default settings: says what it saw, serves and takes files.
set -eu
# In the folder that it is started in, which goes with the suite.
home=$(mktemp -d "$PWD/nginx.XXXXXX")
mkdir "$home/www" "$home/temp"
# A file without blocks on the disk.
truncate -s "${BIG_BYTES:-1048576}" "$home/www/big"
printf 'a small file\n' > "$home/www/small"
cat > "$home/nginx.conf" <<CONF
daemon off;
user root;
worker_processes 1;
pid $home/pid;
error_log stderr warn;
events { worker_connections 1024; }
http {
  access_log off;
  client_max_body_size 0;
  client_body_temp_path $home/temp;
  proxy_temp_path $home/temp;
  fastcgi_temp_path $home/temp;
  uwsgi_temp_path $home/temp;
  scgi_temp_path $home/temp;
  server {
    listen 127.0.0.1:$PORT;
    location / {
      default_type application/json;
      return 200 '{"server":"nginx","pid":\$pid,"port":$PORT,"connection":\$remote_port,"method":"\$request_method","target":"\$request_uri"}';
    }
    location /files/ {
      alias $home/www/;
      dav_methods PUT DELETE;
    }
  }
}
CONF
exec nginx -p "$home" -c "$home/nginx.conf"
