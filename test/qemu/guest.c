/*
 * Program of the test guests: drives the emulated `edu` device.
 *
 *   guest direct ROUNDS  through the device's resource file, with physical addresses: a guest without an IOMMU
 *   guest vfio ROUNDS    through the guest's own vfio-pci: each round maps a page, moves it by DMA, verifies and unmaps it
 *   guest fault          through vfio-pci: one DMA to an address without a map
 *
 * Prints one line for each fact, with `ok` or what is wrong.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/vfio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define EDU_ID 0x010000ed
#define EDU_BUFFER 0x40000
#define DMA_START 1
#define DMA_FROM_BUFFER 2

static volatile uint8_t *bar;
static char slot[64];

static void fail(const char *what) {
    printf("edu: FAILED: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint32_t read32(int at) { return *(volatile uint32_t *)(bar + at); }
static void write32(int at, uint32_t value) { *(volatile uint32_t *)(bar + at) = value; }
static void write64(int at, uint64_t value) { *(volatile uint64_t *)(bar + at) = value; }

static void put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) fail(path);
    close(fd);
}

/* Finds the device 1234:11e8. */
static void find_slot(void) {
    DIR *devices = opendir("/sys/bus/pci/devices");
    struct dirent *entry;
    while (devices && (entry = readdir(devices))) {
        char path[PATH_MAX], id[16] = {0};
        snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/device", entry->d_name);
        int fd = open(path, O_RDONLY);
        if (fd < 0) continue;
        if (read(fd, id, sizeof id - 1) > 0 && !strncmp(id, "0x11e8", 6))
            snprintf(slot, sizeof slot, "%.60s", entry->d_name);
        close(fd);
    }
    if (!slot[0]) fail("no device 1234:11e8");
}

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

static void *pages(int count) {
    void *memory = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED || mlock(memory, count * PAGE)) fail("memory");
    return memory;
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

static int container, device;

static void map(uint64_t iova, void *memory) {
    struct vfio_iommu_type1_dma_map request = {sizeof request, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
                                               (uintptr_t)memory, iova, PAGE};
    if (ioctl(container, VFIO_IOMMU_MAP_DMA, &request)) fail("map");
}

static void unmap(uint64_t iova) {
    struct vfio_iommu_type1_dma_unmap request = {.argsz = sizeof request, .iova = iova, .size = PAGE};
    if (ioctl(container, VFIO_IOMMU_UNMAP_DMA, &request) || request.size != PAGE) fail("unmap");
}

static void open_vfio(void) {
    char path[PATH_MAX], link[PATH_MAX] = {0};
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/driver", slot);
    if (access(path, F_OK)) put("/sys/bus/pci/drivers/vfio-pci/new_id", "1234 11e8");
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/iommu_group", slot);
    if (readlink(path, link, sizeof link - 1) < 0) fail(path);
    snprintf(path, sizeof path, "/dev/vfio/%s", strrchr(link, '/') + 1);
    container = open("/dev/vfio/vfio", O_RDWR);
    int group = open(path, O_RDWR);
    if (container < 0 || group < 0) fail(path);
    if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container)) fail("set container");
    if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)) fail("set iommu");
    device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, slot);
    if (device < 0) fail("device");
    struct vfio_region_info info = {.argsz = sizeof info, .index = VFIO_PCI_BAR0_REGION_INDEX};
    if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info)) fail("BAR 0");
    bar = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, device, info.offset);
    if (bar == MAP_FAILED) fail("mmap of BAR 0");
    struct vfio_region_info config = {.argsz = sizeof config, .index = VFIO_PCI_CONFIG_REGION_INDEX};
    uint16_t command = 6;
    if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &config) || pwrite(device, &command, 2, config.offset + 4) != 2)
        fail("configuration space");
}

static void interrupt(void) {
    int event = eventfd(0, 0);
    uint64_t count = 0;
    char request[sizeof(struct vfio_irq_set) + sizeof(int)];
    struct vfio_irq_set *irqs = (void *)request;
    *irqs = (struct vfio_irq_set){sizeof request, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
                                  VFIO_PCI_MSI_IRQ_INDEX, 0, 1};
    memcpy(irqs->data, &event, sizeof event);
    if (ioctl(device, VFIO_DEVICE_SET_IRQS, irqs)) fail("MSI");
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
        map(iova, memory);
        map(iova + PAGE, memory + PAGE);
        good += move(memory, iova, memory + PAGE, iova + PAGE, i);
        unmap(iova);
        unmap(iova + PAGE);
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
    find_slot();
    if (!strcmp(mode, "direct")) direct(rounds);
    else if (!strcmp(mode, "vfio")) vfio(rounds);
    else if (!strcmp(mode, "fault")) fault();
    else fail("mode");
    return 0;
}
