/*
 * Program of the test guests: a small driver of the emulated `vgpu` over the guest's own vfio-pci.
 *
 *   vgpu COMMANDS   submits fill, copy and checksum in turn, and verifies each; then a command without a mapping
 *
 * Each command's buffers are mapped for it alone, at IOVAs of the guest's vIOMMU, and unmapped after it. Their GPU page
 * table entries are written once. The memory behind an IOVA is another one each time, so a device that keeps what it has
 * translated moves wrong bytes.
 */
#include "device.h"

#define RING 0x10000000ull
#define COMPLETIONS (RING + PAGE)
#define TOP_TABLE (RING + 2 * PAGE)
#define TABLE (RING + 3 * PAGE)
#define SETUP_PAGES 4
#define BUFFERS 0x20000000ull

#define ENTRIES 64
#define SLOTS 32
#define BUFFER_PAGES 2
#define BUFFER_BYTES (BUFFER_PAGES * PAGE)
#define POOL 37
#define LENGTH PAGE

enum { NOP, FILL, COPY, CHECKSUM };

/* Registers of BAR 0. */
#define CONTROL 0x0c
#define RING_BASE 0x10
#define RING_ENTRIES 0x18
#define RING_TAIL 0x20
#define COMPLETION_BASE 0x28
#define PAGE_TABLE_BASE 0x30
#define INTERRUPT_STATUS 0x40
#define FAULT_IOVA 0x50

static uint8_t *setup, *pool;
static int event, tail;
static uint32_t sequence;

static uint32_t crc32(const uint8_t *bytes, int length) {
    uint32_t sum = ~0u;
    for (int i = 0; i < length; i++) {
        sum ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) sum = sum & 1 ? sum >> 1 ^ 0xedb88320u : sum >> 1;
    }
    return ~sum;
}

static uint8_t *buffer(int index) { return pool + index % POOL * BUFFER_BYTES; }
static uint64_t address(int slot) { return BUFFERS + (uint64_t)slot * BUFFER_BYTES; }

/* GPU addresses are the offsets from BUFFERS: the pages of slot 0 are the first of the table. */
static uint32_t gpu_address(int slot, int offset) { return slot * BUFFER_BYTES + offset; }

static void start(void) {
    setup = pages(SETUP_PAGES);
    map(RING, setup, SETUP_PAGES * PAGE);
    uint64_t *top = (void *)(setup + 2 * PAGE), *table = (void *)(setup + 3 * PAGE);
    top[0] = TABLE | 1;
    for (int page = 0; page < SLOTS * BUFFER_PAGES; page++) table[page] = (BUFFERS + page * PAGE) | 3;
    event = interrupt_event(VFIO_PCI_MSIX_IRQ_INDEX);
    write32(CONTROL, 2);
    write64(RING_BASE, RING);
    write32(RING_ENTRIES, ENTRIES);
    write64(COMPLETION_BASE, COMPLETIONS);
    write64(PAGE_TABLE_BASE, TOP_TABLE | 2);
    write32(CONTROL, 1);
}

/* Submits a command and waits for its completion: the words status, result, 0, sequence. */
static volatile uint32_t *run(int opcode, uint32_t target, uint32_t source, uint32_t value) {
    uint32_t *entry = (uint32_t *)(setup + tail * 64);
    volatile uint32_t *completion = (volatile uint32_t *)(setup + PAGE + tail * 16);
    memset(entry, 0, 64);
    entry[0] = opcode, entry[1] = ++sequence, entry[4] = target, entry[5] = source, entry[6] = LENGTH, entry[7] = value;
    tail = (tail + 1) % ENTRIES;
    __sync_synchronize();
    write32(RING_TAIL, tail);
    while (completion[3] != sequence) {
        uint64_t count;
        if (read(event, &count, 8) != 8) fail("interrupt");
        write32(INTERRUPT_STATUS, ~0u);
    }
    return completion;
}

static int filled(const uint8_t *bytes, uint32_t value) {
    for (int i = 0; i < LENGTH; i += 4)
        if (memcmp(bytes + i, &value, 4)) return 0;
    return 1;
}

/* Maps the buffers of a command, runs it, unmaps them, and verifies the result. */
static int verified(int index) {
    int opcode = FILL + index % 3, source = index * 2 % SLOTS, target = source + 1, offset = index % 16 * 256;
    uint8_t *from = buffer(index * 2), *to = buffer(index * 2 + 1);
    uint32_t value = index * 2654435761u;
    memset(to, index, BUFFER_BYTES);
    for (int i = 0; i < LENGTH; i++) from[offset + i] = i * 7 + index;
    if (opcode != FILL) map(address(source), from, BUFFER_BYTES);
    if (opcode != CHECKSUM) map(address(target), to, BUFFER_BYTES);
    volatile uint32_t *completion = run(opcode, gpu_address(target, offset), gpu_address(source, offset), value);
    int ok = completion[0] == 0;
    uint32_t result = completion[1];
    if (opcode != FILL) unmap(address(source), BUFFER_BYTES);
    if (opcode != CHECKSUM) unmap(address(target), BUFFER_BYTES);
    if (opcode == FILL) ok &= filled(to + offset, value);
    if (opcode == COPY) ok &= !memcmp(to + offset, from + offset, LENGTH);
    if (opcode == CHECKSUM) ok &= result == crc32(from + offset, LENGTH);
    /* Nothing around the range has changed. */
    for (int i = 0; opcode != CHECKSUM && i < BUFFER_BYTES; i++)
        if (i < offset || i >= offset + LENGTH) ok &= to[i] == (uint8_t)index;
    if (!ok) printf("vgpu: command %d with opcode %d: status %u WRONG\n", index, opcode, completion[0]);
    return ok;
}

int main(int count, char **arguments) {
    int commands = count > 1 ? atoi(arguments[1]) : 1, good = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    find_slot("vgpu", "1234 6d64");
    open_vfio();
    start();
    pool = pages(POOL * BUFFER_PAGES);
    for (int i = 0; i < commands; i++) good += verified(i);
    printf("vgpu: %d of %d commands %s\n", good, commands, good == commands ? "ok" : "WRONG");
    volatile uint32_t *completion = run(FILL, gpu_address(4, 0), 0, 1);
    uint64_t fault = read32(FAULT_IOVA) | (uint64_t)read32(FAULT_IOVA + 4) << 32;
    printf("vgpu: fault %s\n", completion[0] == 1 && fault == address(4) ? "ok" : "WRONG");
    return 0;
}
