/*
 * Program of the test guests: drives the emulated `edu` device.
 *
 *   guest direct ROUNDS  through the device's resource file, with physical addresses: a guest without an IOMMU
 *   guest vfio ROUNDS    through the guest's own vfio-pci: each round maps a page, moves it by DMA, verifies and unmaps it
 *   guest fault          through vfio-pci: one DMA to an address without a map
 *
 * Prints one line for each fact, with `ok` or what is wrong.
 */
#include "device.h"

#define EDU_ID 0x010000ed
#define EDU_BUFFER 0x40000
#define DMA_START 1
#define DMA_FROM_BUFFER 2

static void await_dma(void) {
    for (long polls = 0; read32(0x98) & DMA_START; polls++)
        if (polls > 2000000) fail("DMA does not end");
}

static void dma(uint64_t source, uint64_t target, uint64_t count, uint32_t command) {
    write64(0x80, source);
    write64(0x88, target);
    write64(0x90, count);
    write32(0x98, command | DMA_START);
    await_dma();
}

/* Moves a page to the device and back to another, and compares them. */
static int move(uint8_t *from, uint64_t from_bus, uint8_t *to, uint64_t to_bus, int round) {
    for (int i = 0; i < PAGE; i++) from[i] = (uint8_t)(i * 7 + round);
    memset(to, 0, PAGE);
    dma(from_bus, EDU_BUFFER, PAGE, 0);
    dma(EDU_BUFFER, to_bus, PAGE, DMA_FROM_BUFFER);
    return memcmp(from, to, PAGE) == 0;
}

static uint64_t physical(void *address) {
    uint64_t entry;
    int fd = open("/proc/self/pagemap", O_RDONLY);
    if (fd < 0 || pread(fd, &entry, 8, (uintptr_t)address / PAGE * 8) != 8) fail("pagemap");
    close(fd);
    return (entry & ((1ull << 55) - 1)) * PAGE;
}

static void check_registers(void) {
    printf("edu: id %08x %s\n", read32(0), read32(0) == EDU_ID ? "ok" : "WRONG");
    write32(4, 0x12345678);
    printf("edu: liveness %s\n", read32(4) == ~0x12345678u ? "ok" : "WRONG");
}

static void direct(int rounds) {
    char path[PATH_MAX];
    uint16_t command = 6;
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/enable", slot);
    put(path, "1");
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/config", slot);
    int config = open(path, O_RDWR);
    if (config < 0 || pwrite(config, &command, 2, 4) != 2) fail(path);
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/resource0", slot);
    int fd = open(path, O_RDWR | O_SYNC);
    bar = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || bar == MAP_FAILED) fail(path);
    check_registers();
    uint8_t *memory = pages(2);
    int good = 0;
    for (int i = 0; i < rounds; i++)
        good += move(memory, physical(memory), memory + PAGE, physical(memory + PAGE), i);
    printf("edu: direct %d of %d rounds %s\n", good, rounds, good == rounds ? "ok" : "WRONG");
}

static void interrupt(void) {
    int event = interrupt_event(VFIO_PCI_MSI_IRQ_INDEX);
    uint64_t count = 0;
    write32(0x60, 1);
    if (read(event, &count, 8) != 8) fail("interrupt");
    printf("edu: interrupt %s\n", count == 1 ? "ok" : "WRONG");
}

static void vfio(int rounds) {
    open_vfio();
    check_registers();
    interrupt();
    uint8_t *memory = pages(2);
    int good = 0;
    for (int i = 0; i < rounds; i++) {
        uint64_t iova = 0x10000000ull + (uint64_t)(i % 64) * 2 * PAGE;
        map(iova, memory, PAGE);
        map(iova + PAGE, memory + PAGE, PAGE);
        good += move(memory, iova, memory + PAGE, iova + PAGE, i);
        unmap(iova, PAGE);
        unmap(iova + PAGE, PAGE);
    }
    printf("edu: vfio %d of %d rounds %s\n", good, rounds, good == rounds ? "ok" : "WRONG");
}

static void fault(void) {
    open_vfio();
    dma(0xdead0000, EDU_BUFFER, 64, 0);
    printf("edu: fault done\n");
}

int main(int count, char **arguments) {
    const char *mode = count > 1 ? arguments[1] : "";
    int rounds = count > 2 ? atoi(arguments[2]) : 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    find_slot("edu", "1234 11e8");
    if (!strcmp(mode, "direct")) direct(rounds);
    else if (!strcmp(mode, "vfio")) vfio(rounds);
    else if (!strcmp(mode, "fault")) fault();
    else fail("mode");
    return 0;
}
