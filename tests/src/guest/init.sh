#!/bin/sh
# The first process of a guest. Runs the commands that come over its second serial line; the first has the kernel's
# messages.
export PATH=/bin:/host HOME=/

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
# DPDK loads no plugin where everybody could put one.
chmod 755 /
mkdir /dev/shm /dev/hugepages
mount -t tmpfs shm /dev/shm
mount -t hugetlbfs huge /dev/hugepages
# They are numbered in an order in which they can be loaded.
for module in /modules/*; do
  insmod "$module" || echo "init: no $module" >/dev/kmsg
done
ip link set lo up

# No echo, and every byte as it is.
stty -F /dev/ttyS1 raw -echo
exec </dev/null >/dev/ttyS1 2>&1
printf '\036ready\n'
# Were this process to end, the kernel would panic. As a script the line makes the shell print no prompts.
while :; do
  sh /dev/ttyS1
done
