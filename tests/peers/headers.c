/*
 * Compares figures of pv-abi (FIGURES, a file of calls of TYPE, FIELD and NUMBER) with those of Xen's public headers
 * (HEADERS, a file that includes them all).
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include HEADERS

/* The headers have this one as text for the assembler. */
__asm__(".pushsection .rodata; emulate_prefix: " XEN_EMULATE_PREFIX ".popsection");
extern const uint8_t emulate_prefix[];

static unsigned compared, different;

/* Compares a figure of theirs with ours, which has `bytes` bytes: of their numbers, negative ones are wider. */
static void compare(const char *what, const char *name, uint64_t theirs, uint64_t ours, unsigned bytes)
{
    unsigned unused_bits = 64 - 8 * bytes;
    uint64_t extended = (uint64_t)((int64_t)(ours << unused_bits) >> unused_bits);

    compared++;
    if (theirs == ours || theirs == extended)
        return;
    different++;
    printf("%s of %s: Xen has %#llx, pv-abi %#llx\n", what, name, (unsigned long long)theirs,
           (unsigned long long)ours);
}

#define TYPE(type, size) compare("size", #type, sizeof(type), size, 8);
#define FIELD(type, member, offset, size)                                          \
    compare("offset", #type "." #member, offsetof(type, member), offset, 8);       \
    compare("size", #type "." #member, sizeof(((type *)NULL)->member), size, 8);
#define NUMBER(name, value, bytes) compare("value", #name, (uint64_t)(name), value, bytes);

int main(void)
{
#include FIGURES
    printf("compared %u, different %u\n", compared, different);
    return compared == 0 || different != 0;
}
