/*
 * A PCI device of the test guests, by its IDs: through its resource files, or through the guest's own vfio-pci.
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

static const char *program, *ids;
static volatile uint8_t *bar;
static char slot[64];
static int container, device;

static void fail(const char *what) {
    printf("%s: FAILED: %s: %s\n", program, what, strerror(errno));
    exit(1);
}

static inline uint32_t read32(int at) { return *(volatile uint32_t *)(bar + at); }
static inline void write32(int at, uint32_t value) { *(volatile uint32_t *)(bar + at) = value; }
static inline void write64(int at, uint64_t value) { *(volatile uint64_t *)(bar + at) = value; }

static void put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) fail(path);
    close(fd);
}

/* Finds the first device with these IDs: "1234 11e8". */
static void find_slot(const char *name, const char *wanted) {
    program = name, ids = wanted;
    DIR *devices = opendir("/sys/bus/pci/devices");
    struct dirent *entry;
    while (devices && !slot[0] && (entry = readdir(devices))) {
        char path[PATH_MAX], id[16] = {0};
        snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/device", entry->d_name);
        int fd = open(path, O_RDONLY);
        if (fd < 0) continue;
        if (read(fd, id, sizeof id - 1) > 0 && !strncmp(id + 2, wanted + 5, 4))
            snprintf(slot, sizeof slot, "%.60s", entry->d_name);
        close(fd);
    }
    if (!slot[0]) fail(wanted);
}

static void *pages(int count) {
    void *memory = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED || mlock(memory, count * PAGE)) fail("memory");
    return memory;
}

static inline void map(uint64_t iova, void *memory, uint64_t size) {
    struct vfio_iommu_type1_dma_map request = {sizeof request, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
                                               (uintptr_t)memory, iova, size};
    if (ioctl(container, VFIO_IOMMU_MAP_DMA, &request)) fail("map");
}

static inline void unmap(uint64_t iova, uint64_t size) {
    struct vfio_iommu_type1_dma_unmap request = {.argsz = sizeof request, .iova = iova, .size = size};
    if (ioctl(container, VFIO_IOMMU_UNMAP_DMA, &request) || request.size != size) fail("unmap");
}

/* Opens the device through vfio-pci, with BAR 0 at `bar`. */
static void open_vfio(void) {
    char path[PATH_MAX], link[PATH_MAX] = {0};
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/driver", slot);
    if (access(path, F_OK)) put("/sys/bus/pci/drivers/vfio-pci/new_id", ids);
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

/* Sets the event counter of the first interrupt of a type: VFIO_PCI_MSI_IRQ_INDEX, … */
static int interrupt_event(int type) {
    int event = eventfd(0, 0);
    char request[sizeof(struct vfio_irq_set) + sizeof(int)];
    struct vfio_irq_set *irqs = (void *)request;
    *irqs = (struct vfio_irq_set){sizeof request, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, type, 0, 1};
    memcpy(irqs->data, &event, sizeof event);
    if (ioctl(device, VFIO_DEVICE_SET_IRQS, irqs)) fail("interrupt");
    return event;
}
