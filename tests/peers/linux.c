/* What tests/peers/linux runs in the guest, linked statically: it stresses what a paravirtual kernel asks of its
 * hypervisor. Each check prints one line, "exercise NAME ok" or "exercise NAME FAILED: why".
 *
 *   exercise             all checks; the status is 0 where each is ok
 *   exercise poweroff    writes everything out and turns the machine off; also: reboot, crash
 */
#define _GNU_SOURCE
#include <errno.h>
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul

static const char *failure; /* why the check that runs has failed */
static char why[200];

static int failed(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    failure = why;
    return -1;
}

static int wait_for(pid_t child)
{
    int status;
    if (child < 0)
        return failed("fork: %s", strerror(errno));
    if (waitpid(child, &status, 0) != child)
        return failed("waitpid: %s", strerror(errno));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return failed("a child ended with %#x", status);
    return 0;
}

static int64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ll + time.tv_nsec;
}

/* Many short processes, one after the other and at the same time. */
static int forks(void)
{
    enum { ROUNDS = 20, AT_ONCE = 10 };
    for (int round = 0; round < ROUNDS; round++) {
        pid_t children[AT_ONCE];
        for (int i = 0; i < AT_ONCE; i++)
            if ((children[i] = fork()) == 0)
                _exit(0);
        for (int i = 0; i < AT_ONCE; i++)
            if (wait_for(children[i]))
                return -1;
    }
    return 0;
}

static int programs(void)
{
    for (int i = 0; i < 30; i++) {
        pid_t child = vfork();
        if (child == 0) {
            execl("/bin/true", "true", (char *)NULL);
            _exit(127);
        }
        if (wait_for(child))
            return -1;
    }
    return 0;
}

/* What a child writes to a private page stays its own; what it writes to a shared one is its parent's, too. */
static int copies_on_write(void)
{
    const size_t pages = 256;
    uint64_t *own = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t *shared = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (own == MAP_FAILED || shared == MAP_FAILED)
        return failed("mmap: %s", strerror(errno));
    for (size_t i = 0; i < pages; i++)
        own[i * PAGE / 8] = i;
    pid_t child = fork();
    if (child == 0) {
        for (size_t i = 0; i < pages; i++) {
            if (own[i * PAGE / 8] != i)
                _exit(1);
            shared[i * PAGE / 8] = own[i * PAGE / 8] = ~i;
        }
        _exit(0);
    }
    if (wait_for(child))
        return -1;
    for (size_t i = 0; i < pages; i++)
        if (own[i * PAGE / 8] != i || shared[i * PAGE / 8] != ~i)
            return failed("page %zu holds %#llx and %#llx", i, (long long)own[i * PAGE / 8],
                          (long long)shared[i * PAGE / 8]);
    munmap(own, pages * PAGE);
    munmap(shared, pages * PAGE);
    return 0;
}

static sigjmp_buf back;
static volatile uintptr_t fault_address;

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    fault_address = (uintptr_t)info->si_addr;
    siglongjmp(back, 1);
}

/* Whether an access to the page faults; at which address, fault_address tells. */
static int faults(volatile char *page, int writes)
{
    fault_address = 0;
    if (sigsetjmp(back, 1))
        return 1;
    if (writes)
        *page = 1;
    else
        (void)*page;
    return 0;
}

/* Each protection is kept by the hardware, page by page, and after it was changed. */
static int protections(void)
{
    const size_t pages = 64;
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);
    volatile char *area = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED)
        return failed("mmap: %s", strerror(errno));
    for (size_t i = 0; i < pages; i++) {
        static const int kinds[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE};
        for (int kind = 0; kind < 3; kind++) {
            volatile char *page = area + i * PAGE;
            if (mprotect((void *)page, PAGE, kinds[kind]))
                return failed("mprotect: %s", strerror(errno));
            for (int writes = 0; writes < 2; writes++) {
                const int allowed = writes ? kind == 2 : kind >= 1;
                const int fault = faults(page, writes);
                if (fault == allowed || (fault && fault_address != (uintptr_t)page))
                    return failed("page %zu, protection %d, write %d: fault %d at %#lx", i, kind, writes, fault,
                                  (unsigned long)fault_address);
            }
        }
    }
    munmap((void *)area, pages * PAGE);
    signal(SIGSEGV, SIG_DFL);
    return 0;
}

static volatile sig_atomic_t alarms;

static void on_alarm(int number)
{
    (void)number;
    alarms++;
}

/* A timer interrupts a loop, whose registers must not notice. */
static int interrupts(void)
{
    struct itimerval every = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
    signal(SIGALRM, on_alarm);
    alarms = 0;
    setitimer(ITIMER_REAL, &every, NULL);
    uint64_t a = 1, b = 2, c = 3;
    double d = 1.5;
    uint64_t rounds = 0;
    for (int64_t end = now_ns() + 5000000000ll; alarms < 100 && now_ns() < end; rounds++) {
        for (int i = 0; i < 1000; i++) {
            a += 3, b ^= a, b ^= a, c -= 1, c += 1;
            d = d * 2 / 2;
        }
        if (a != 1 + 3000 * (rounds + 1) || b != 2 || c != 3 || d != 1.5)
            return failed("registers changed after %d alarms", (int)alarms);
    }
    setitimer(ITIMER_REAL, &never, NULL);
    return alarms < 100 ? failed("%d of 100 alarms in 5 s", (int)alarms) : 0;
}

__attribute__((target("avx"))) static int holds_avx(uint64_t pattern, int64_t end)
{
    while (now_ns() < end) {
        __m256i kept[8];
        for (int i = 0; i < 8; i++) {
            kept[i] = _mm256_set1_epi64x((long long)(pattern * (uint64_t)(i + 1)));
            __asm__ volatile("" : "+x"(kept[i]));
        }
        for (int turns = 0; turns < 2000; turns++)
            __asm__ volatile("" : "+x"(kept[0]), "+x"(kept[1]), "+x"(kept[2]), "+x"(kept[3]), "+x"(kept[4]),
                             "+x"(kept[5]), "+x"(kept[6]), "+x"(kept[7]));
        for (int i = 0; i < 8; i++) {
            uint64_t words[4];
            _mm256_storeu_si256((__m256i *)words, kept[i]);
            for (int word = 0; word < 4; word++)
                if (words[word] != pattern * (uint64_t)(i + 1))
                    return 1;
        }
    }
    return 0;
}

static int holds_sse(uint64_t pattern, int64_t end)
{
    while (now_ns() < end) {
        __m128i kept = _mm_set1_epi64x((long long)pattern);
        volatile long double x87 = (long double)pattern;
        for (int turns = 0; turns < 2000; turns++)
            __asm__ volatile("" : "+x"(kept));
        uint64_t words[2];
        _mm_storeu_si128((__m128i *)words, kept);
        if (words[0] != pattern || words[1] != pattern || x87 != (long double)pattern)
            return 1;
    }
    return 0;
}

/* Four processes hold patterns of their own in the vector registers for two seconds. */
static int vectors(int avx)
{
    pid_t children[4];
    for (int i = 0; i < 4; i++)
        if ((children[i] = fork()) == 0) {
            const uint64_t pattern = 0x0123456789abcdefull * (uint64_t)(i + 1);
            const int64_t end = now_ns() + 2000000000ll;
            _exit(avx ? holds_avx(pattern, end) : holds_sse(pattern, end));
        }
    int result = 0;
    for (int i = 0; i < 4; i++)
        result |= wait_for(children[i]);
    return result;
}

static int sse(void) { return vectors(0); }
static int avx(void) { return vectors(1); }

static int pipes(void)
{
    enum { TOTAL = 4 << 20 };
    int ends[2];
    if (pipe(ends))
        return failed("pipe: %s", strerror(errno));
    pid_t child = fork();
    if (child == 0) {
        unsigned char block[5000];
        close(ends[0]);
        for (unsigned sent = 0; sent < TOTAL;) {
            const unsigned size = TOTAL - sent < sizeof block ? TOTAL - sent : sizeof block;
            for (unsigned i = 0; i < size; i++)
                block[i] = (unsigned char)((sent + i) * 7 >> 3);
            for (unsigned done = 0; done < size;) {
                const ssize_t written = write(ends[1], block + done, size - done);
                if (written <= 0)
                    _exit(1);
                done += (unsigned)written;
            }
            sent += size;
        }
        _exit(0);
    }
    close(ends[1]);
    unsigned char block[4096];
    unsigned got = 0;
    ssize_t count;
    while ((count = read(ends[0], block, sizeof block)) > 0)
        for (ssize_t i = 0; i < count; i++, got++)
            if (block[i] != (unsigned char)(got * 7 >> 3))
                return failed("byte %u is %#x", got, block[i]);
    close(ends[0]);
    if (wait_for(child))
        return -1;
    return got == TOTAL ? 0 : failed("%u bytes of %u", got, (unsigned)TOTAL);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned long counted;
static _Atomic int64_t latest;
static _Atomic int backwards;

static void *count(void *unused)
{
    for (int i = 0; i < 20000; i++) {
        pthread_mutex_lock(&lock);
        counted++;
        /* Under the lock, so that no thread may see an earlier time than the one before. */
        const int64_t now = now_ns();
        if (now < latest)
            backwards = 1;
        latest = now;
        pthread_mutex_unlock(&lock);
    }
    return unused;
}

/* Threads sleep and wake each other; the clock goes forwards on whichever CPU they run. */
static int threads(void)
{
    pthread_t all[4];
    counted = 0;
    for (int i = 0; i < 4; i++)
        if (pthread_create(&all[i], NULL, count, NULL))
            return failed("pthread_create");
    for (int i = 0; i < 4; i++)
        pthread_join(all[i], NULL);
    if (backwards)
        return failed("the clock went backwards");
    return counted == 80000 ? 0 : failed("counted %lu of 80000", counted);
}

static int sleeps(void)
{
    for (int i = 0; i < 20; i++) {
        const int64_t start = now_ns();
        const struct timespec time = {0, 5000000};
        if (clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL))
            return failed("clock_nanosleep");
        if (now_ns() - start < 5000000)
            return failed("slept %lld ns of 5 ms", (long long)(now_ns() - start));
    }
    return 0;
}

static int turn_off(const char *how)
{
    sync();
    mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
    if (strcmp(how, "crash") == 0) {
        FILE *trigger = fopen("/proc/sysrq-trigger", "w");
        if (trigger) {
            fputc('c', trigger);
            fclose(trigger);
        }
    }
    reboot(strcmp(how, "reboot") == 0 ? RB_AUTOBOOT : RB_POWER_OFF);
    perror("reboot");
    return 1;
}

int main(int count, char **arguments)
{
    static const struct {
        const char *name;
        int (*check)(void);
    } checks[] = {{"forks", forks},           {"programs", programs}, {"copies on write", copies_on_write},
                  {"protections", protections}, {"interrupts", interrupts}, {"sse", sse},
                  {"avx", avx},               {"pipes", pipes},       {"threads", threads},
                  {"sleeps", sleeps}};
    int status = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count > 1)
        return turn_off(arguments[1]);
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        if (checks[i].check == avx && !__builtin_cpu_supports("avx")) {
            printf("exercise avx skipped: this CPU has none\n");
            continue;
        }
        if (checks[i].check()) {
            printf("exercise %s FAILED: %s\n", checks[i].name, failure);
            status = 1;
        } else {
            printf("exercise %s ok\n", checks[i].name);
        }
    }
    return status;
}
