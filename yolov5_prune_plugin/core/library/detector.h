/* A detector in one library: an image in, boxes out. Made by "yolov5-prune compile"; needs nothing beside libc.
 *
 *     detector *d;
 *     detector_image image = {pixels, width, height, stride};
 *     detector_box boxes[300];
 *     int found, error = detector_create(0, &d);
 *     if (!error) error = detector_run(d, &image, 1, 0.25f, 0.45f, boxes, 300, &found);
 *     if (error) puts(detector_error(error));
 *     detector_free(d);
 *
 * Nothing is allocated after detector_create. Any number of detectors may be there; several threads may call one at
 * once, and then take turns. All functions that can fail return 0, or a code below 0 that detector_error explains.
 */
#ifndef DETECTOR_H
#define DETECTOR_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(DETECTOR_BUILD)
#define DETECTOR_API __declspec(dllexport)
#elif defined(__GNUC__)
#define DETECTOR_API __attribute__((visibility("default")))
#else
#define DETECTOR_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct detector detector;

/* 8-bit pixels, red, green and blue, one after the other; stride is the bytes from a row to the next, 3 * width where
 * rows follow each other without a gap. */
typedef struct {
    const uint8_t *pixels;
    int width, height;
    size_t stride;
} detector_image;

/* In pixels of the image as it was given; the most confident box comes first. */
typedef struct {
    float left, top, right, bottom, confidence;
    int class_id;
} detector_box;

enum {
    DETECTOR_NULL = -1,      /* a pointer is null */
    DETECTOR_SIZE = -2,      /* an image's size or stride */
    DETECTOR_MEMORY = -3,    /* no memory */
    DETECTOR_PROCESSOR = -4, /* the processor lacks instructions that the kernels need */
    DETECTOR_THREADS = -5,   /* threads can't be started */
    DETECTOR_THRESHOLD = -6, /* a threshold outside [0, 1] */
    DETECTOR_COUNT = -7,     /* a number of images or boxes */
    DETECTOR_TASK = -8,      /* another task than the model's */
    DETECTOR_MODEL = -9      /* the library is damaged */
};

/* threads: that share the work of a frame; 0 takes as many as there are processors, up to what was compiled for. */
DETECTOR_API int detector_create(int threads, detector **made);
DETECTOR_API void detector_free(detector *d); /* null is allowed; no other call may be running */

/* Letterboxes, runs and suppresses as detect.py does. count: at most the batch that was compiled. For each image, room
 * boxes are at boxes + i * room, of which found[i] are filled. */
DETECTOR_API int detector_run(detector *d, const detector_image *images, int count, float confidence, float iou,
                              detector_box *boxes, int room, int *found);

/* Of a classifier: the probabilities of all classes, as classify/predict.py has them; count * classes numbers. */
DETECTOR_API int detector_classify(detector *d, const detector_image *images, int count, float *probabilities);

/* Lower: images as [batch, 3, height, width] in [0, 1] (a classifier's normalised) in, what the model returns out. */
DETECTOR_API int detector_run_tensor(detector *d, const float *images, float *const *outputs);

DETECTOR_API int detector_shape(int shape[4]);               /* batch, 3, height, width */
DETECTOR_API int detector_outputs(void);                     /* how many tensors */
DETECTOR_API int detector_output(int index, int shape[4]);   /* returns the number of dimensions */
DETECTOR_API int detector_classes(void);
DETECTOR_API const char *detector_name(int class_id);        /* null if there is no such class */
DETECTOR_API const char *detector_error(int code);
DETECTOR_API const char *detector_about(void);               /* JSON: task, size, names, processor, versions */

#ifdef __cplusplus
}
#endif
#endif
