/* Uses a detector as a program would, and as none should; exits 0 if all is as it must be. Compiles as C and as C++. */
#include "detector.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

enum { ROOM = 300, THREADS = 100 };

static unsigned random_state = 1;
static int brief = 0; /* for an emulator */

static uint8_t *noise(int width, int height, size_t stride) { /* not a byte more than an image has */
    size_t i, size = stride * (size_t)(height - 1) + (size_t)width * 3;
    uint8_t *pixels = (uint8_t *)malloc(size);
    MUST(pixels);
    for (i = 0; i < size; i++) pixels[i] = (uint8_t)((random_state = random_state * 1103515245u + 12345u) >> 16);
    return pixels;
}

static detector_image image_of(const uint8_t *pixels, int width, int height, size_t stride) {
    detector_image image;
    image.pixels = pixels, image.width = width, image.height = height, image.stride = stride;
    return image;
}

static void sizes(detector *d) {
    static const int given[][2] = {{1, 1}, {1, 3000}, {3000, 1}, {2, 2}, {64, 64}, {128, 128}, {65, 63}, {4000, 3000}};
    detector_box boxes[ROOM];
    size_t i, gap;
    for (i = 0; i < sizeof given / sizeof *given - (brief ? 1 : 0); i++)
        for (gap = 0; gap < 8; gap += 7) {
            int width = given[i][0], height = given[i][1], found = -1, k;
            size_t stride = (size_t)width * 3 + gap;
            uint8_t *pixels = noise(width, height, stride);
            detector_image image = image_of(pixels, width, height, stride);
            MUST(detector_run(d, &image, 1, 0.0f, 0.6f, boxes, ROOM, &found) == 0);
            MUST(found > 0 && found <= ROOM);
            for (k = 0; k < found; k++) {
                MUST(boxes[k].left >= 0 && boxes[k].right <= width && boxes[k].left <= boxes[k].right);
                MUST(boxes[k].top >= 0 && boxes[k].bottom <= height && boxes[k].top <= boxes[k].bottom);
                MUST(boxes[k].confidence > 0 && boxes[k].confidence <= 1);
                MUST(boxes[k].class_id >= 0 && boxes[k].class_id < detector_classes());
                MUST(k == 0 || boxes[k].confidence <= boxes[k - 1].confidence);
            }
            free(pixels);
        }
}

static void wrong(detector *d) {
    uint8_t pixels[48];
    float number, *outputs[1] = {NULL};
    int found, shape[4];
    detector_box box;
    detector *none = (detector *)&found;
    detector_image image = image_of(pixels, 4, 4, 12), other;
    memset(pixels, 9, sizeof pixels);
    MUST(detector_create(0, NULL) == DETECTOR_NULL);
    MUST(detector_create(-1, &none) == DETECTOR_COUNT && none == NULL);
    MUST(detector_run(NULL, &image, 1, 0.5f, 0.5f, &box, 1, &found) == DETECTOR_NULL);
    MUST(detector_run(d, NULL, 1, 0.5f, 0.5f, &box, 1, &found) == DETECTOR_NULL);
    MUST(detector_run(d, &image, 1, 0.5f, 0.5f, NULL, 1, &found) == DETECTOR_NULL);
    MUST(detector_run(d, &image, 1, 0.5f, 0.5f, &box, 1, NULL) == DETECTOR_NULL);
    other = image, other.pixels = NULL;
    MUST(detector_run(d, &other, 1, 0.5f, 0.5f, &box, 1, &found) == DETECTOR_NULL);
    other = image, other.width = 0;
    MUST(detector_run(d, &other, 1, 0.5f, 0.5f, &box, 1, &found) == DETECTOR_SIZE);
    other = image, other.height = -4;
    MUST(detector_run(d, &other, 1, 0.5f, 0.5f, &box, 1, &found) == DETECTOR_SIZE);
    other = image, other.stride = 11;
    MUST(detector_run(d, &other, 1, 0.5f, 0.5f, &box, 1, &found) == DETECTOR_SIZE);
    other = image, other.width = 1 << 30;
    MUST(detector_run(d, &other, 1, 0.5f, 0.5f, &box, 1, &found) == DETECTOR_SIZE);
    MUST(detector_run(d, &image, 0, 0.5f, 0.5f, &box, 1, &found) == DETECTOR_COUNT);
    MUST(detector_run(d, &image, 2, 0.5f, 0.5f, &box, 1, &found) == DETECTOR_COUNT);
    MUST(detector_run(d, &image, 1, 0.5f, 0.5f, &box, 0, &found) == DETECTOR_COUNT);
    MUST(detector_run(d, &image, 1, -0.1f, 0.5f, &box, 1, &found) == DETECTOR_THRESHOLD);
    MUST(detector_run(d, &image, 1, 0.5f, 1.1f, &box, 1, &found) == DETECTOR_THRESHOLD);
    MUST(detector_classify(d, &image, 1, &number) == DETECTOR_TASK);
    MUST(detector_run_tensor(d, NULL, outputs) == DETECTOR_NULL);
    MUST(detector_run_tensor(d, &number, NULL) == DETECTOR_NULL);
    MUST(detector_run_tensor(d, &number, outputs) == DETECTOR_NULL);
    MUST(detector_shape(NULL) == DETECTOR_NULL && detector_shape(shape) == 0 && shape[0] == 1 && shape[1] == 3);
    MUST(detector_output(0, NULL) == DETECTOR_NULL && detector_output(1, shape) == DETECTOR_COUNT);
    MUST(detector_output(-1, shape) == DETECTOR_COUNT && detector_output(0, shape) == 3 && detector_outputs() == 1);
    MUST(detector_name(-1) == NULL && detector_name(detector_classes()) == NULL);
    MUST(strcmp(detector_name(1), "platelet") == 0 && detector_about()[0] == '{');
    for (found = 0; found > -12; found--) MUST(strlen(detector_error(found)) > 3);
    detector_free(NULL);
}

static detector *shared;
static detector_image shared_image;
static detector_box expected[ROOM];
static int expected_found;

static void *work(void *given) {
    detector_box *boxes = (detector_box *)malloc(sizeof expected);
    int i, found;
    (void)given;
    MUST(boxes);
    for (i = 0; i < 3; i++) {
        MUST(detector_run(shared, &shared_image, 1, 0.05f, 0.5f, boxes, ROOM, &found) == 0);
        MUST(found == expected_found && memcmp(boxes, expected, (size_t)found * sizeof *boxes) == 0);
    }
    free(boxes);
    return NULL;
}

static void at_once(void) {
    pthread_t threads[THREADS];
    uint8_t *pixels = noise(90, 70, 270);
    int i, many = brief ? 8 : THREADS;
    MUST(detector_create(3, &shared) == 0);
    shared_image = image_of(pixels, 90, 70, 270);
    MUST(detector_run(shared, &shared_image, 1, 0.05f, 0.5f, expected, ROOM, &expected_found) == 0);
    for (i = 0; i < many; i++) MUST(pthread_create(&threads[i], NULL, work, NULL) == 0);
    for (i = 0; i < many; i++) MUST(pthread_join(threads[i], NULL) == 0);
    detector_free(shared);
    free(pixels);
}

static void again_and_again(void) {
    uint8_t *pixels = noise(50, 50, 150);
    detector_image image = image_of(pixels, 50, 50, 150);
    detector_box boxes[ROOM];
    int i, found, first = -1;
    for (i = 0; i < (brief ? 4 : 30); i++) {
        detector *d;
        MUST(detector_create(i % 4, &d) == 0);
        MUST(detector_run(d, &image, 1, 0.1f, 0.5f, boxes, ROOM, &found) == 0);
        if (first < 0) first = found;
        MUST(found == first);
        detector_free(d);
    }
    free(pixels);
}

int main(int count, char **words) {
    detector *d;
    int error = detector_create(1, &d);
    if (error) {
        fprintf(stderr, "%s\n", detector_error(error));
        return 2;
    }
    brief = count > 3;
    sizes(d);
    wrong(d);
    if (count > 1) { /* what it finds in an image of the size that is given, as text */
        int width = atoi(words[1]), height = atoi(words[2]), found, k;
        size_t size = (size_t)width * (size_t)height * 3;
        uint8_t *pixels = (uint8_t *)malloc(size);
        detector_image image = image_of(pixels, width, height, (size_t)width * 3);
        detector_box boxes[ROOM];
        MUST(pixels && fread(pixels, 1, size, stdin) == size);
        MUST(detector_run(d, &image, 1, 0.05f, 0.45f, boxes, ROOM, &found) == 0);
        for (k = 0; k < found; k++)
            printf("%.3f %.3f %.3f %.3f %.5f %d\n", boxes[k].left, boxes[k].top, boxes[k].right, boxes[k].bottom,
                   boxes[k].confidence, boxes[k].class_id);
        free(pixels);
    }
    detector_free(d);
    at_once();
    again_and_again();
    return 0;
}
