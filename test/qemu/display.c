/*
 * Program of the test guests: draws pictures by the guest's own DRM driver, without a library.
 *
 *   display SEED   prints the CRC-32 of each picture's red, green and blue bytes, and continues after a line on its input
 *
 * The pictures are: a pattern over the whole framebuffer; a box in it, the only part that is flushed; a cursor over it;
 * a second framebuffer.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* From the kernel's drm.h and drm_mode.h, which not every machine has. */
struct mode {
    uint32_t clock;
    uint16_t hdisplay, hsync_start, hsync_end, htotal, hskew, vdisplay, vsync_start, vsync_end, vtotal, vscan;
    uint32_t vrefresh, flags, type;
    char name[32];
};
struct card {
    uint64_t fbs, crtcs, connectors, encoders;
    uint32_t count_fbs, count_crtcs, count_connectors, count_encoders, min_width, max_width, min_height, max_height;
};
struct connector {
    uint64_t encoders, modes, props, prop_values;
    uint32_t count_modes, count_props, count_encoders, encoder_id, connector_id, type, type_id, connection, mm_width,
        mm_height, subpixel, pad;
};
struct crtc {
    uint64_t connectors;
    uint32_t count_connectors, crtc_id, fb_id, x, y, gamma_size, mode_valid;
    struct mode mode;
};
struct create_dumb {
    uint32_t height, width, bpp, flags, handle, pitch;
    uint64_t size;
};
struct map_dumb {
    uint32_t handle, pad;
    uint64_t offset;
};
struct fb {
    uint32_t fb_id, width, height, pitch, bpp, depth, handle;
};
struct clip {
    uint16_t x1, y1, x2, y2;
};
struct dirty {
    uint32_t fb_id, flags, color, num_clips;
    uint64_t clips;
};
struct cursor {
    uint32_t flags, crtc_id;
    int32_t x, y;
    uint32_t width, height, handle;
    int32_t hot_x, hot_y;
};

#define GET_CARD _IOWR('d', 0xa0, struct card)
#define SET_CRTC _IOWR('d', 0xa2, struct crtc)
#define GET_CONNECTOR _IOWR('d', 0xa7, struct connector)
#define ADD_FB _IOWR('d', 0xae, struct fb)
#define REMOVE_FB _IOWR('d', 0xaf, uint32_t)
#define DIRTY_FB _IOWR('d', 0xb1, struct dirty)
#define CREATE_DUMB _IOWR('d', 0xb2, struct create_dumb)
#define MAP_DUMB _IOWR('d', 0xb3, struct map_dumb)
#define DESTROY_DUMB _IOWR('d', 0xb4, uint32_t)
#define CURSOR _IOWR('d', 0xbb, struct cursor)

struct buffer {
    uint32_t width, height, pitch, handle, fb_id;
    uint8_t *pixels;
};

static int card;
static uint32_t crtc_id, connector_id;
static struct mode mode;
static int pictures, seed;

static void fail(const char *what) {
    printf("display: FAILED: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void call(unsigned long request, void *argument, const char *what) {
    if (ioctl(card, request, argument)) fail(what);
}

static uint32_t crc(uint32_t sum, uint8_t byte) {
    sum ^= byte;
    for (int bit = 0; bit < 8; bit++) sum = sum & 1 ? sum >> 1 ^ 0xedb88320u : sum >> 1;
    return sum;
}

static uint32_t *pixel(struct buffer *buffer, int x, int y) {
    return (uint32_t *)(buffer->pixels + y * buffer->pitch) + x;
}

/* The picture that the test expects, in both frames. */
static uint32_t pattern(int x, int y, int frame) {
    return ((x * 7 + y * 13 + frame * 64 + seed) & 0xff) << 16 | ((x ^ y) & 0xff) << 8 | ((x * y >> 4) & 0xff);
}

static void find_display(void) {
    struct card resources = {0};
    uint32_t ids[4][16];
    call(GET_CARD, &resources, "card");
    if (resources.count_crtcs > 16 || resources.count_connectors > 16) fail("too many");
    resources.fbs = (uintptr_t)ids[0], resources.crtcs = (uintptr_t)ids[1];
    resources.connectors = (uintptr_t)ids[2], resources.encoders = (uintptr_t)ids[3];
    resources.count_fbs = resources.count_encoders = 16;
    call(GET_CARD, &resources, "card");
    crtc_id = ids[1][0], connector_id = ids[2][0];
    struct connector info = {.connector_id = connector_id};
    call(GET_CONNECTOR, &info, "connector");
    struct mode *modes = calloc(info.count_modes, sizeof *modes);
    info.modes = (uintptr_t)modes;
    info.count_props = info.count_encoders = 0;
    call(GET_CONNECTOR, &info, "connector");
    if (info.connection != 1 || info.count_modes == 0) fail("not connected");
    mode = modes[0];
    printf("display: mode %dx%d, %u mm wide\n", mode.hdisplay, mode.vdisplay, info.mm_width);
}

static struct buffer create(int width, int height) {
    struct create_dumb request = {.width = width, .height = height, .bpp = 32};
    call(CREATE_DUMB, &request, "buffer");
    struct map_dumb map = {.handle = request.handle};
    call(MAP_DUMB, &map, "map");
    void *pixels = mmap(NULL, request.size, PROT_READ | PROT_WRITE, MAP_SHARED, card, map.offset);
    if (pixels == MAP_FAILED) fail("mmap");
    return (struct buffer){width, height, request.pitch, request.handle, 0, pixels};
}

static void add_fb(struct buffer *buffer) {
    struct fb request = {0, buffer->width, buffer->height, buffer->pitch, 32, 24, buffer->handle};
    call(ADD_FB, &request, "framebuffer");
    buffer->fb_id = request.fb_id;
}

static void show(struct buffer *buffer) {
    struct crtc request = {.connectors = (uintptr_t)&connector_id, .count_connectors = 1, .crtc_id = crtc_id,
                           .fb_id = buffer->fb_id, .mode_valid = 1, .mode = mode};
    call(SET_CRTC, &request, "mode");
}

static void draw(struct buffer *buffer, int frame) {
    for (uint32_t y = 0; y < buffer->height; y++)
        for (uint32_t x = 0; x < buffer->width; x++) *pixel(buffer, x, y) = pattern(x, y, frame);
}

static void picture(struct buffer *buffer) {
    uint32_t sum = ~0u;
    for (uint32_t y = 0; y < buffer->height; y++)
        for (uint32_t x = 0; x < buffer->width; x++) {
            uint32_t colour = *pixel(buffer, x, y);
            sum = crc(crc(crc(sum, colour >> 16), colour >> 8), colour);
        }
    printf("display: picture %d crc %08x\n", ++pictures, ~sum);
    while (getchar() != '\n') continue;
}

static void box(struct buffer *buffer, int x, int y, int width, int height, uint32_t colour) {
    for (int row = 0; row < height; row++)
        for (int column = 0; column < width; column++) *pixel(buffer, x + column, y + row) = colour;
}

int main(int count, char **arguments) {
    seed = count > 1 ? atoi(arguments[1]) : 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    card = open("/dev/dri/card0", O_RDWR);
    if (card < 0) fail("/dev/dri/card0");
    find_display();
    struct buffer front = create(mode.hdisplay, mode.vdisplay);
    draw(&front, 0);
    add_fb(&front);
    show(&front);
    picture(&front);

    box(&front, 100, 50, 200, 150, 0x3366cc);
    struct clip clip = {100, 50, 300, 200};
    struct dirty dirty = {.fb_id = front.fb_id, .num_clips = 1, .clips = (uintptr_t)&clip};
    call(DIRTY_FB, &dirty, "flush");
    uint32_t corner = *pixel(&front, 0, 0);
    picture(&front);

    /* A cursor of 16 x 16 red pixels, the others transparent. Not flushed: the corner. */
    struct buffer sprite = create(64, 64);
    box(&sprite, 0, 0, 64, 64, 0);
    box(&sprite, 0, 0, 16, 16, 0xffff0000);
    struct cursor cursor = {.flags = 3, .crtc_id = crtc_id, .x = 200, .y = 300, .width = 64, .height = 64,
                            .handle = sprite.handle, .hot_x = 3, .hot_y = 5};
    call(CURSOR, &cursor, "cursor");
    *pixel(&front, 0, 0) = ~corner;
    struct buffer expected = create(mode.hdisplay, mode.vdisplay);
    memcpy(expected.pixels, front.pixels, front.pitch * front.height);
    *pixel(&expected, 0, 0) = corner;
    box(&expected, 200, 300, 16, 16, 0xff0000);
    picture(&expected);

    cursor = (struct cursor){.flags = 1, .crtc_id = crtc_id};
    call(CURSOR, &cursor, "cursor off");
    struct buffer back = create(mode.hdisplay, mode.vdisplay);
    draw(&back, 1);
    add_fb(&back);
    show(&back);
    call(REMOVE_FB, &front.fb_id, "remove");
    call(DESTROY_DUMB, &front.handle, "destroy");
    picture(&back);
    printf("display: done\n");
    return 0;
}
