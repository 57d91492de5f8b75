#!/bin/bash
# A one-machine Ceph with its S3 gateway, on loopback, data in memory, no system services; for tests.
#
#   start_ceph.sh FOLDER PORT       uses ports PORT .. PORT+30; prints "ready" when the gateway answers
#   kill $(cat FOLDER/pids)         stops it; everything is gone then
#
# Needs root and: apt-get install radosgw ceph-mon ceph-osd ceph-common curl
# Keys: $FGRAY_S3_KEY and $FGRAY_S3_SECRET (default fgrayadmin, fgraysecret).
set -eu
folder=${1:?usage: start_ceph.sh FOLDER PORT}
port=${2:?usage: start_ceph.sh FOLDER PORT}
mkdir -p "$folder"/{mon,osd,rgw,log,run}
: > "$folder/pids"
conf=$folder/ceph.conf
cluster=$(cat /proc/sys/kernel/random/uuid)
monitors="v2:127.0.0.1:$((port + 1)),v1:127.0.0.1:$((port + 2))"

cat > "$conf" <<CONF
[global]
fsid = $cluster
mon_host = [$monitors]
mon_initial_members = a
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_port_min = $((port + 3))
ms_bind_port_max = $((port + 30))
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
run_dir = $folder/run
pid_file = $folder/run/\$name.pid
admin_socket = $folder/run/\$name.\$pid.asok
log_file = $folder/log/\$name.log
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_warn = 2
mon_data_avail_crit = 1
[mon.a]
mon_data = $folder/mon
[osd.0]
osd_data = $folder/osd
osd_objectstore = memstore
memstore_device_bytes = 2147483648
[client.rgw]
rgw_data = $folder/rgw
rgw_frontends = beast endpoint=127.0.0.1:$port tcp_nodelay=1
# Without these two lines the gateway waits for ever for a key that nobody uses.
ms_mon_client_mode = crc
auth_client_required = none
CONF

start() { # NAME COMMAND...: in the background, in a session of its own, its id in the list of pids
  local name=$1
  shift
  setsid "$@" > "$folder/log/$name.out" 2>&1 < /dev/null &
  echo $! >> "$folder/pids"
}

monmaptool --create --clobber --fsid "$cluster" --addv a "[$monitors]" "$folder/monmap" > /dev/null
ceph-mon -c "$conf" -i a --mkfs --monmap "$folder/monmap" > "$folder/log/mon-mkfs.out" 2>&1
start mon ceph-mon -c "$conf" -i a -f
disk=$(cat /proc/sys/kernel/random/uuid)
timeout 60 ceph -c "$conf" osd new "$disk" 0 > /dev/null
ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$disk" --osd-objectstore memstore > "$folder/log/osd-mkfs.out" 2>&1
start osd ceph-osd -c "$conf" -i 0 -f
start rgw radosgw -c "$conf" -n client.rgw -f
for _ in $(seq 600); do
  curl --noproxy '*' -s -o /dev/null "http://127.0.0.1:$port/" && break
  sleep 0.1
done
timeout 60 radosgw-admin -c "$conf" -n client.rgw user create --uid fgray --display-name fgray \
  --access-key "${FGRAY_S3_KEY:-fgrayadmin}" --secret-key "${FGRAY_S3_SECRET:-fgraysecret}" > "$folder/log/user.json"
echo ready
