/*
 * LD_PRELOAD shim that lets Debian's stores, the C xenstored and oxenstored
 * (xen-utils-4.17 of Debian 12, xen-utils-4.20 of Debian 13), run as dom0's store
 * on a machine without Xen.
 *
 * Only the hypervisor is faked: the store, its wire protocol, watches,
 * transactions, permissions and quotas are its own. start.py beside this file
 * compiles it and starts a store with it. oxenstored knows its folder when it is
 * built: what it does there is done in XENSTORED_RUNDIR.
 *
 * Every domid is reported as an existing, running domain, so that a test can
 * hand a node to a guest (permission "n5") as a real host would, or introduce and
 * release one. In XENSTORED_RUNDIR, the page of a guest's ring (xs_wire.h) is the
 * file ring-DOMID, and event channels are datagrams: a guest sends its domid, a
 * 32-bit integer, to the socket "events"; it is notified at the socket guest-DOMID.
 * A program that is a guest thus has a connection of its own, with its quotas.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define FIRST_RESERVED 0x7ff0       /* domids from here on are no domains (xen.h) */

static int handle;                  /* its address stands for every opaque handle */
static int event_fd = -1;           /* the socket "events" */

enum { VIRQ_PORT = 1, FIRST_GUEST_PORT = 100 }; /* a guest's port: this and its domid, also after a live update */

/* libxenctrl */
void *xc_interface_open(void *log, void *dombuild_log, unsigned flags) { return &handle; }
int xc_interface_close(void *xch) { return 0; }

/*
 * 4.17: xc_dominfo_t starts with u32 domid, u32 ssidref and the bits that say
 * dying, crashed, shutdown. The caller's is uninitialised: they are written too.
 */
int xc_domain_getinfo(void *xch, uint32_t first, unsigned max, void *info)
{
    uint32_t alive[4] = {first, 0, 0, 0};

    if (max == 0 || first >= FIRST_RESERVED)
        return 0;
    memcpy(info, alive, sizeof alive);
    return 1;
}

/* 4.18 and later: xc_domaininfo_t starts with u16 domid, u16 padding, u32 flags. */
int xc_domain_getinfo_single(void *xch, uint32_t domid, void *info)
{
    uint16_t alive[4] = {domid, 0, 0, 0};

    if (domid >= FIRST_RESERVED) {
        errno = ESRCH;
        return -1;
    }
    if (info)
        memcpy(info, alive, sizeof alive);
    return 0;
}

/* oxenstored: xc_domaininfo_t as above, here 112 bytes, all of which the caller reads. */
int xc_domain_getinfolist(void *xch, uint32_t first, unsigned max, void *info)
{
    if (max == 0)
        return 0;
    memset(info, 0, 112);
    return xc_domain_getinfo_single(xch, first, info) < 0 ? 0 : 1;
}

/* The store's folder, and a file in it. */
static const char *in_folder(char *room, size_t size, const char *name, unsigned number)
{
    const char *directory = getenv("XENSTORED_RUNDIR");

    snprintf(room, size, "%s/%s", directory ? directory : ".", name);
    if (number)
        snprintf(room + strlen(room), size - strlen(room), "-%u", number);
    return room;
}

/* A guest's ring; dom0 has its own. */
static void *ring(uint32_t domid)
{
    char room[PATH_MAX];
    int fd = open(in_folder(room, sizeof room, "ring", domid), O_RDWR | O_CREAT, 0600);
    void *page;

    if (fd < 0)
        return NULL;
    if (ftruncate(fd, getpagesize()) < 0) {
        close(fd);
        return NULL;
    }
    page = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return page == MAP_FAILED ? NULL : page;
}

void *xc_map_foreign_range(void *xch, uint32_t domid, int size, int prot, unsigned long mfn) { return ring(domid); }

/* libxengnttab */
void *xengnttab_open(void *log, unsigned flags) { return &handle; }
int xengnttab_close(void *xgt) { return 0; }
int xengnttab_set_max_grants(void *xgt, uint32_t count) { return 0; }
void *xengnttab_map_grant_ref(void *xgt, uint32_t domid, uint32_t ref, int prot)
{
    return ring(domid);
}
int xengnttab_unmap(void *xgt, void *addr, uint32_t count)
{
    return munmap(addr, (size_t)count * getpagesize());
}

/* libxenevtchn */
static struct sockaddr_un socket_address(const char *name, unsigned number)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    in_folder(address.sun_path, sizeof address.sun_path, name, number);
    return address;
}

void *xenevtchn_open(void *log, unsigned flags)
{
    struct sockaddr_un address = socket_address("events", 0);

    if (event_fd >= 0)
        return &handle;
    unlink(address.sun_path);
    event_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0); /* a live update hands it over */
    if (event_fd < 0 || bind(event_fd, (struct sockaddr *)&address, sizeof address) < 0)
        return NULL;
    return &handle;
}

void *xenevtchn_fdopen(void *log, int fd, unsigned flags)
{
    event_fd = fd;
    return &handle;
}

int xenevtchn_close(void *xce) { return 0; }
int xenevtchn_fd(void *xce) { return event_fd; }
int xenevtchn_bind_virq(void *xce, unsigned virq) { return VIRQ_PORT; }
int xenevtchn_bind_interdomain(void *xce, uint32_t domid, uint32_t port) { return FIRST_GUEST_PORT + domid; }
int xenevtchn_unbind(void *xce, uint32_t port) { return 0; }
int xenevtchn_unmask(void *xce, uint32_t port) { return 0; }

int xenevtchn_notify(void *xce, uint32_t port)
{
    struct sockaddr_un address = socket_address("guest", port - FIRST_GUEST_PORT);

    /* An event channel has no queue: a guest that is gone, or has been notified, misses nothing. */
    sendto(event_fd, "", 1, MSG_DONTWAIT, (struct sockaddr *)&address, sizeof address);
    return 0;
}

int xenevtchn_pending(void *xce)
{
    uint32_t domid;

    while (recv(event_fd, &domid, sizeof domid, MSG_DONTWAIT) == sizeof domid)
        if (domid < FIRST_RESERVED)
            return FIRST_GUEST_PORT + domid;
    errno = EAGAIN;
    return -1;
}

/* The store's folder, wherever it was built to be; anything else is left alone. */
static const char *moved(const char *path, char *room)
{
    const char *folders[] = {"/var/run/xenstored", "/run/xenstored"}, *here = getenv("XENSTORED_RUNDIR");

    for (int at = 0; here && at < 2; at++)
        if (strncmp(path, folders[at], strlen(folders[at])) == 0) {
            snprintf(room, PATH_MAX, "%s%s", here, path + strlen(folders[at]));
            return room;
        }
    return path;
}

int mkdir(const char *path, mode_t mode)
{
    int (*real)(const char *, mode_t) = dlsym(RTLD_NEXT, "mkdir");
    char room[PATH_MAX];
    return real(moved(path, room), mode);
}

int unlink(const char *path)
{
    int (*real)(const char *) = dlsym(RTLD_NEXT, "unlink");
    char room[PATH_MAX];
    return real(moved(path, room));
}

int stat64(const char *path, struct stat64 *found)
{
    int (*real)(const char *, struct stat64 *) = dlsym(RTLD_NEXT, "stat64");
    char room[PATH_MAX];
    return real(moved(path, room), found);
}

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    struct sockaddr_un unix_address = {.sun_family = AF_UNIX};
    char room[PATH_MAX];

    if (address->sa_family != AF_UNIX)
        return real(fd, address, length);
    strncpy(unix_address.sun_path, moved(((const struct sockaddr_un *)address)->sun_path, room),
            sizeof unix_address.sun_path - 1);
    return real(fd, (struct sockaddr *)&unix_address, sizeof unix_address);
}

/* oxenstored ends when it cannot have as many descriptors as the kernel knows, which only a host's root may. */
int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
    int (*real)(__rlimit_resource_t, const struct rlimit *) = dlsym(RTLD_NEXT, "setrlimit");
    return resource == RLIMIT_NOFILE ? 0 : real(resource, limit);
}

/* The two kernel files through which dom0 finds its own ring. */
static int fake_device(const char *path)
{
    int fd;

    if (strstr(path, "xsd_port")) {
        fd = memfd_create("xsd_port", 0);
        if (fd >= 0 && (write(fd, "1", 1) != 1 || lseek(fd, 0, SEEK_SET) != 0))
            return -1;
        return fd;
    }
    if (strstr(path, "xsd_kva")) {
        fd = memfd_create("xsd_kva", 0);
        if (fd >= 0 && ftruncate(fd, getpagesize()) != 0)
            return -1;
        return fd;
    }
    return -1;
}

#define OPEN(name)                                                       \
    int name(const char *path, int flags, ...)                           \
    {                                                                    \
        int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #name);   \
        char room[PATH_MAX];                                             \
        int fd = fake_device(path);                                      \
        mode_t mode = 0;                                                 \
        if (fd >= 0)                                                     \
            return fd;                                                   \
        if (flags & (O_CREAT | O_TMPFILE)) {                             \
            va_list args;                                                \
            va_start(args, flags);                                       \
            mode = va_arg(args, mode_t);                                 \
            va_end(args);                                                \
        }                                                                \
        return real(moved(path, room), flags, mode);                     \
    }
OPEN(open)
OPEN(open64)
