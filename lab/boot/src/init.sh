#!/bin/busybox sh
# The guest's init, PID 1: makes the guest's root file system and hands over to guest-exec.
#
# Enters: OUTSOCK_* variables from the kernel's command line. Under QEMU this is /init of an initramfs, under User
# Mode Linux it is started from the host's root, mounted read-only.
# Leaves: an overlay of the host's root (never written) and a tmpfs, with private /tmp, /run, /var/tmp and /root.
set -e
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
b=/bin/busybox
say() { $b echo "outsock-init: $*"; }
trap 'say "failed, see the line above"; $b poweroff -f' EXIT

case $OUTSOCK_MONITOR in
qemu) files=/outsock ;;
uml) files=$OUTSOCK_FILES ;;
esac
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev 2>/dev/null || $b true
for module in "$files"/modules/*.ko; do
    $b insmod "$module" || say "cannot load $module"
done

lower=/
if [ "$OUTSOCK_MONITOR" = qemu ]; then
    lower=/lower
    # The host's programs do not change while a guest runs, so everything may be cached.
    $b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro outsock-root $lower
fi
$b mount -t tmpfs -o mode=755 tmpfs /mnt
$b mkdir /mnt/upper /mnt/work /mnt/root
root=/mnt/root
$b mount -t overlay -o "lowerdir=$lower,upperdir=/mnt/upper,workdir=/mnt/work" overlay $root

$b mkdir -p $root/proc $root/sys $root/dev $root/tmp $root/run $root/var/tmp $root/root $root/mnt/share $root/lib/modules
if [ -n "$OUTSOCK_MODULES" ]; then
    # The whole module tree of this kernel, so that modprobe works. A cache below /tmp is out of sight by then.
    $b mount --bind "${lower%/}$OUTSOCK_MODULES" $root/lib/modules || say "no module tree at $OUTSOCK_MODULES"
fi
for directory in tmp var/tmp; do $b mount -t tmpfs -o mode=1777 tmpfs $root/$directory; done
$b mount -t tmpfs -o mode=755 tmpfs $root/run
$b mount -t tmpfs -o mode=700 tmpfs $root/root
$b mount -t proc proc $root/proc
$b mount -t sysfs sysfs $root/sys
$b mount -t devtmpfs devtmpfs $root/dev
$b mkdir -p $root/dev/pts $root/dev/shm $root/run/lock $root/run/outsock
$b mount -t devpts -o mode=620,ptmxmode=666 devpts $root/dev/pts
$b mount -t tmpfs -o mode=1777 tmpfs $root/dev/shm
$b mount -t cgroup2 cgroup2 $root/sys/fs/cgroup 2>/dev/null || $b true
$b mount -t bpf bpf $root/sys/fs/bpf 2>/dev/null || $b true
for pair in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do
    $b ln -sf "${pair#*:}" "$root/dev/${pair%%:*}"
done
if [ -n "$OUTSOCK_SHARE" ]; then
    case $OUTSOCK_MONITOR in
    qemu) $b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=mmap outsock-share $root/mnt/share ;;
    uml) $b mount -t hostfs -o "$OUTSOCK_SHARE" none $root/mnt/share ;;
    esac
fi

# The only network device; the kernel gives it 127.0.0.1 and ::1.
$b ip link set lo up
$b hostname "$OUTSOCK_NAME"
$b echo "127.0.0.1 $OUTSOCK_NAME" >> $root/etc/hosts
$b cp "$files/guest-exec" $b $root/run/outsock/

cd $root
$b mount --move . /
trap - EXIT
exec $b chroot . /run/outsock/busybox sh -c '
    b=/run/outsock/busybox
    case $OUTSOCK_MONITOR in
    qemu)
        # The monitor tells of a port, and then of its name, when it comes to it.
        tries=0
        while [ -z "$channel" ] && [ $tries -lt 500 ]; do
            for port in /sys/class/virtio-ports/*; do
                [ "$($b cat $port/name 2>/dev/null)" = outsock-commands ] && channel=/dev/${port##*/}
            done
            tries=$((tries + 1))
            [ -n "$channel" ] || $b usleep 20000
        done
        ;;
    uml)
        channel=/dev/ttyS0
        ;;
    esac
    # What a distribution gives: room for servers with many connections, if they ask for it.
    ulimit -Hn 1048576
    ulimit -Sn 1024
    # This shell stays PID 1 and reaps what guest-exec leaves behind. The channel is opened once, for reading and
    # writing: a tty may forget "raw" when it is closed in between.
    {
        [ $OUTSOCK_MONITOR = qemu ] || $b stty raw -echo
        /run/outsock/guest-exec $OUTSOCK_STEP
    } <>$channel
    $b sync
    $b poweroff -f
'
