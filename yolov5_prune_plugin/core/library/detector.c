/* The library around the kernels: lays out the weights, owns memory and threads, and does what detect.py does to an
 * image before the model and to its output after it. The kernels and the model come from "yolov5-prune compile". */
#define DETECTOR_BUILD
#define _GNU_SOURCE
#include "detector.h"

#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOGDI
#include <windows.h>
#elif !defined(__wasm__)
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

/* What the compiler of the model wrote; see pack.py. */
extern const unsigned char detector_model[];

typedef void kernels(const int64_t *steps, int64_t begin, int64_t end, void *const *bases, int64_t *counters,
                     int64_t threads, int64_t thread, int (*relax)(void));
#ifdef DETECTOR_AVX2
extern kernels detector_kernels_avx2;
#endif
#ifdef DETECTOR_AVX512
extern kernels detector_kernels_avx512;
#endif
#ifdef DETECTOR_ANY
extern kernels detector_kernels_any;
#endif
#if defined(DETECTOR_AVX2) || defined(DETECTOR_AVX512)
#define DETECTOR_X86
#endif

enum { TILE = 256, LINE = 64, HUGE_PAGE = 2 << 20, FORMAT = 1 };
enum { MOST_OUTPUTS = 8, MOST_BLOCK = 8, MOST_CANDIDATES = 30000 };
enum { DETECT, SEGMENT, CLASSIFY };
enum { ANY, AVX2, AVX512 };
enum { FLOAT32, FLOAT16, CODEBOOK };
enum { BYTES, NUMBERS, GRIDS };
enum { BY_PIXEL, BY_ROW, BY_COLUMN, ALIKE };
enum { DECODED, PLACED, CLASSIFIED };
static const double CLASS_APART = 7680; /* pixels that upstream's NMS moves the boxes of each class by */
static const float MEAN[3] = {0.485f, 0.456f, 0.406f}, DEVIATION[3] = {0.229f, 0.224f, 0.225f};

/* ---- reading the model ---- */

typedef struct {
    const unsigned char *at;
} reader;

static int64_t number(reader *r) {
    uint64_t value = 0;
    int shift = 0;
    for (;;) {
        unsigned char byte = *r->at++;
        value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) break;
        shift += 7;
    }
    return (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
}

static const unsigned char *section(reader *r) { return detector_model + number(r); }

typedef struct {
    int64_t outputs, taps, together, entries, rice, form, bits, book_form;
    const unsigned char *positions, *values, *book, *scale, *bias;
} layer;

typedef struct {
    int task, outputs, layers, programs, fields;
    int shape[4], dimensions[MOST_OUTPUTS], sizes[MOST_OUTPUTS][4], classes;
    const char *about;
    const unsigned char *names, *first_layer;
    reader rest; /* at the list of programs */
} header;

static void read_layer(reader *r, layer *l) {
    l->outputs = number(r), l->taps = number(r), l->together = number(r), l->entries = number(r), l->rice = number(r);
    l->form = number(r), l->bits = number(r), l->book_form = number(r);
    l->positions = section(r), l->values = section(r), l->book = section(r), l->bias = section(r);
    int64_t scaled = number(r);
    l->scale = scaled ? detector_model + scaled : NULL;
}

static int read_header(header *h) {
    static const unsigned char magic[4] = {'Y', '5', 'P', 'L'};
    int i, j;
    if (memcmp(detector_model, magic, 4)) return DETECTOR_MODEL;
    reader r = {detector_model + 4};
    if (number(&r) != FORMAT) return DETECTOR_MODEL;
    h->fields = (int)number(&r), h->task = (int)number(&r);
    for (i = 0; i < 4; i++) h->shape[i] = (int)number(&r);
    h->classes = (int)number(&r);
    h->names = section(&r), h->about = (const char *)section(&r);
    h->outputs = (int)number(&r);
    for (i = 0; i < h->outputs; i++) {
        h->dimensions[i] = (int)number(&r);
        for (j = 0; j < h->dimensions[i]; j++) h->sizes[i][j] = (int)number(&r);
    }
    h->layers = (int)number(&r);
    h->first_layer = r.at;
    for (i = 0; i < h->layers; i++) {
        layer l;
        read_layer(&r, &l);
    }
    h->programs = (int)number(&r);
    h->rest = r;
    return 0;
}

static uint32_t word(const unsigned char *at) {
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static float half_of(const unsigned char *at) {
    uint32_t half = at[0] | (uint32_t)at[1] << 8, sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31;
    uint32_t mantissa = half & 1023;
    if (exponent == 31) return float_of(sign | 0x7f800000u | mantissa << 13);
    if (exponent) return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
    float value = (float)mantissa / 16777216.0f;
    return sign ? -value : value;
}

static double double_of(const unsigned char *at) {
    uint64_t bits = word(at) | (uint64_t)word(at + 4) << 32;
    double value;
    memcpy(&value, &bits, 8);
    return value;
}

static float stored(const unsigned char *values, int64_t form, int64_t index) {
    return form == FLOAT16 ? half_of(values + 2 * index) : float_of(word(values + 4 * index));
}

static uint32_t bits_at(const unsigned char *bytes, int64_t first, int64_t count) {
    uint32_t value = 0;
    int64_t i;
    for (i = 0; i < count; i++) value |= (uint32_t)(bytes[(first + i) >> 3] >> ((first + i) & 7) & 1) << i;
    return value;
}

/* All weights of a layer, [outputs][taps]. Positions are gaps, Rice-coded, between rows of `together` outputs. */
static void weights_of(const layer *l, float *dense) {
    int64_t bit = 0, place = -1, value = 0, entry, i;
    memset(dense, 0, (size_t)(l->outputs * l->taps) * sizeof *dense);
    for (entry = 0; entry < l->entries; entry++) {
        int64_t gap = 0;
        while (!(l->positions[bit >> 3] >> (bit & 7) & 1)) gap++, bit++;
        gap = gap << l->rice | bits_at(l->positions, bit + 1, l->rice);
        bit += 1 + l->rice;
        place += gap + 1;
        int64_t row = place / l->taps * l->together, tap = place % l->taps;
        for (i = 0; i < l->together && row + i < l->outputs; i++, value++) {
            float w = l->form == CODEBOOK ? stored(l->book, l->book_form, bits_at(l->values, value * l->bits, l->bits))
                                          : stored(l->values, l->form, value);
            if (l->scale) w = (float)((double)w * double_of(l->scale + 8 * (row + i)));
            dense[(row + i) * l->taps + tap] = w;
        }
    }
}

/* ---- threads ---- */

#if defined(__wasm__)
typedef int mutex;
static int mutex_init(mutex *m) { return *m = 0; }
static void mutex_free(mutex *m) { (void)m; }
static void lock(mutex *m) { (void)m; }
static void unlock(mutex *m) { (void)m; }
#define RELAX NULL
static int processors(void) { return 1; }
#elif defined(_WIN32)
typedef SRWLOCK mutex;
typedef CONDITION_VARIABLE condition;
typedef HANDLE thread;
static int mutex_init(mutex *m) { return InitializeSRWLock(m), 0; }
static void mutex_free(mutex *m) { (void)m; }
static void lock(mutex *m) { AcquireSRWLockExclusive(m); }
static void unlock(mutex *m) { ReleaseSRWLockExclusive(m); }
static int condition_init(condition *c) { return InitializeConditionVariable(c), 0; }
static void condition_free(condition *c) { (void)c; }
static void wait_for(condition *c, mutex *m) { SleepConditionVariableSRW(c, m, INFINITE, 0); }
static void wake_all(condition *c) { WakeAllConditionVariable(c); }
static void join(thread t) { WaitForSingleObject(t, INFINITE), CloseHandle(t); }
static int relax(void) { return SwitchToThread(); }
#define RELAX relax
static int processors(void) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return (int)info.dwNumberOfProcessors;
}
#else
typedef pthread_mutex_t mutex;
typedef pthread_cond_t condition;
typedef pthread_t thread;
static int mutex_init(mutex *m) { return pthread_mutex_init(m, NULL); }
static void mutex_free(mutex *m) { pthread_mutex_destroy(m); }
static void lock(mutex *m) { pthread_mutex_lock(m); }
static void unlock(mutex *m) { pthread_mutex_unlock(m); }
static int condition_init(condition *c) { return pthread_cond_init(c, NULL); }
static void condition_free(condition *c) { pthread_cond_destroy(c); }
static void wait_for(condition *c, mutex *m) { pthread_cond_wait(c, m); }
static void wake_all(condition *c) { pthread_cond_broadcast(c); }
static void join(thread t) { pthread_join(t, NULL); }
#define RELAX sched_yield
#ifdef __linux__
static int processors(void) { /* that this process may use */
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
}
#else
static int processors(void) { return (int)sysconf(_SC_NPROCESSORS_ONLN); }
#endif
#endif

/* ---- a detector ---- */

typedef struct {
    int kind, base;
    int64_t offset, image, plane, row, channels, height, width; /* of a map; of a classifier's last one */
    int weights, bias;                                           /* of a classifier's Linear: their places in extra */
} output;

typedef struct {
    void *start; /* what was allocated */
    size_t size;
} memory;

struct detector {
    header about;
    kernels *run;
    int threads, started, bases, steps;
    int64_t *rows, *counters;
    void **base;
    output outputs[MOST_OUTPUTS];
    float *linear, *linear_bias, *pooled;
    float *input, *made[MOST_OUTPUTS]; /* for detector_run */
    /* letterbox */
    int *columns, *shares, *upper, *lower;
    float tables[3][256];
    /* suppression */
    float *boxes, *scores;
    int *order, *class_of, most;
    memory *owned;
    int owned_count, owned_room;
    mutex turn; /* whoever runs a frame has it */
#ifndef __wasm__
    mutex guard;
    condition begun, ended;
    thread *team;
    struct worker *workers;
    int64_t frame; /* counts frames; workers wait for the next */
    int busy, over, ready;
#endif
};

#ifndef __wasm__
struct worker {
    detector *d;
    int number;
};
#endif

static void *owned(detector *d, int64_t floats, size_t each) {
    size_t bytes = (size_t)floats * each + LINE, align = LINE;
    if (d->owned_count == d->owned_room) {
        int room = d->owned_room ? 2 * d->owned_room : 32;
        memory *more = realloc(d->owned, (size_t)room * sizeof *more);
        if (!more) return NULL;
        d->owned = more, d->owned_room = room;
    }
    if (bytes >= HUGE_PAGE) align = HUGE_PAGE; /* a tile touches more planes than there are entries for small pages */
#if defined(__wasm__) || defined(_WIN32)
    align = LINE;
#endif
    char *start = calloc(1, bytes + align);
    if (!start) return NULL;
    d->owned[d->owned_count].start = start, d->owned[d->owned_count++].size = bytes;
    char *aligned = start + (align - (uintptr_t)start % align) % align;
#ifdef MADV_HUGEPAGE
    if (align == HUGE_PAGE) madvise(aligned, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
    return aligned;
}

#define OWNED(d, count, type) ((type *)owned((d), (count), sizeof(type)))

/* The weights of some outputs of a layer, as kernels read them: see streams.py and Planner._lines. */
static int lay_out(reader *r, const layer *layers, float *dense, unsigned char *blob) {
    const layer *l = &layers[number(r)];
    int64_t start = number(r), stop = number(r), block = number(r), cut_count = number(r), i, j, g, c, t;
    int64_t *cuts = malloc((size_t)(cut_count + 1) * sizeof *cuts);
    if (!cuts) return DETECTOR_MEMORY;
    for (i = 0; i <= cut_count; i++) cuts[i] = number(r);
    int64_t chunks = number(r);
    int64_t *first = malloc((size_t)(chunks + 1) * sizeof *first);
    if (!first) {
        free(cuts);
        return DETECTOR_MEMORY;
    }
    for (i = 0; i <= chunks; i++) first[i] = number(r);
    int64_t plane = number(r), shift_every = number(r), shift = number(r), spatial = number(r);
    int64_t *offsets = malloc((size_t)(l->taps + spatial) * sizeof *offsets);
    if (!offsets) {
        free(cuts), free(first);
        return DETECTOR_MEMORY;
    }
    for (i = 0; i < spatial; i++) offsets[l->taps + i] = number(r);
    int64_t least = INT64_MAX, greatest = INT64_MIN;
    for (t = 0; t < l->taps; t++) {
        offsets[t] = t / spatial * plane + offsets[l->taps + t % spatial];
        if (offsets[t] < least) least = offsets[t];
        if (offsets[t] > greatest) greatest = offsets[t];
    }
    int64_t data = number(r), starts_at = number(r), counts_at = number(r), groups_at = number(r), bias_at = number(r);
    int64_t groups = (stop - start) / block, entry = 4 * (block + 1);
    unsigned char *out = blob + data;
    int64_t *starts = (int64_t *)(blob + starts_at);
    int32_t *counts = (int32_t *)(blob + counts_at);
    weights_of(l, dense); /* after the layer's own outputs, a block may have some that are zero */
    memset(dense + l->outputs * l->taps, 0, (size_t)(MOST_BLOCK * l->taps) * sizeof *dense);
    for (i = 0; i <= chunks; i++) ((int64_t *)(blob + groups_at))[i] = first[i];
    for (i = 0; i < stop - start; i++) {
        int there = start + i < l->outputs;
        ((float *)(blob + bias_at))[i] = there ? float_of(word(l->bias + 4 * (start + i))) : 0;
    }
    for (c = 0; c < cut_count; c++) {
        for (g = 0, j = 0; g < groups; g++) {
            const float *rows = dense + (start + g * block) * l->taps;
            int64_t moved = (start + g * block) / shift_every * shift;
            int32_t count = 0;
            while (j < chunks && first[j] == g) starts[c * chunks + j++] = out - blob;
            for (t = cuts[c]; t < cuts[c + 1]; t++) {
                int kept = 0;
                for (i = 0; i < block; i++) kept |= rows[i * l->taps + t] != 0; /* NaN is kept */
                if (!kept) continue;
                for (i = 0; i < block; i++) memcpy(out + 4 * i, &rows[i * l->taps + t], 4);
                int32_t offset = (int32_t)(offsets[t] + moved);
                memcpy(out + 4 * block, &offset, 4);
                out += entry, count++;
            }
            counts[c * groups + g] = count;
        }
        while (j < chunks) starts[c * chunks + j++] = out - blob;
    }
    int64_t pixels = number(r), ahead = number(r);
    int error = 0;
    unsigned char *seen = calloc(1, (size_t)((greatest - least + pixels + 32) / 16 + 4));
    if (seen) {
        int64_t *from = offsets; /* as lines of the cache, counted from the first */
        int64_t base = least >> 4;
        for (t = 0; t < l->taps; t++) from[t] -= base * 16;
        int64_t lines_at = number(r), line_counts_at = number(r), made = 0;
        int64_t *line_counts = (int64_t *)(blob + line_counts_at);
        int32_t *lines = (int32_t *)(blob + lines_at);
        line_counts[0] = 0;
        for (c = 0; c < cut_count; c++) {
            if (ahead) {
                int64_t low = INT64_MAX, high = -1;
                for (t = cuts[c]; t < cuts[c + 1]; t++)
                    for (i = 0; i < pixels + 15; i += 16) {
                        int64_t line = (from[t] + i) >> 4;
                        seen[line] = 1;
                        if (line < low) low = line;
                        if (line > high) high = line;
                    }
                for (i = low; i <= high; i++)
                    if (seen[i]) lines[made++] = (int32_t)((i + base) * 16), seen[i] = 0;
                while ((made - line_counts[c]) % 4) lines[made] = lines[made - 1], made++;
            }
            line_counts[c + 1] = made;
        }
        free(seen);
    } else {
        error = DETECTOR_MEMORY;
    }
    free(offsets), free(first), free(cuts);
    return error;
}

/* Constants of the plan other than weights. */
static void put(reader *r, unsigned char *blob) {
    int64_t kind = number(r), place = number(r), count = number(r), i, row, column;
    if (kind == BYTES) {
        memcpy(blob + place, section(r), (size_t)count);
        return;
    }
    if (kind == NUMBERS) {
        for (i = 0; i < count; i++) ((int64_t *)(blob + place))[i] = number(r);
        return;
    }
    int64_t height = number(r), width = number(r);
    for (i = 0; i < count; i++) {
        int64_t how = number(r);
        const unsigned char *values = section(r);
        float *plane = (float *)(blob + place) + i * (height * width + TILE);
        for (row = 0; row < height; row++)
            for (column = 0; column < width; column++) {
                int64_t index = how == BY_PIXEL ? row * width + column : how == BY_ROW ? row : column;
                if (how == ALIKE) index = 0;
                plane[row * width + column] = float_of(word(values + 4 * index));
            }
    }
}

static float *dense_of(detector *d, const layer *l) {
    float *made = OWNED(d, l->outputs * l->taps, float);
    if (made) weights_of(l, made);
    return made;
}

/* Reads a program: memory, constants, steps, outputs. */
static int load(detector *d, reader r, const layer *layers, int64_t most) {
    int64_t workspace = number(&r), weights = number(&r), i, j;
    d->bases = (int)number(&r);
    d->base = OWNED(d, d->bases, void *);
    char *space = (char *)OWNED(d, workspace, float);
    unsigned char *blob = OWNED(d, weights, unsigned char);
    if (!d->base || !space || !blob) return DETECTOR_MEMORY;
    d->base[0] = blob, d->base[1] = space;
    for (i = number(&r); i > 0; i--) { /* masks of pixels against the zeros between rows */
        int32_t *mask = (int32_t *)(space + number(&r));
        int64_t height = number(&r), width = number(&r), pitch = number(&r);
        for (j = 0; j < height; j++) memset(mask + j * pitch, 255, (size_t)width * 4);
    }
    float *dense = malloc((size_t)most * sizeof *dense);
    if (!dense) return DETECTOR_MEMORY;
    int error = 0;
    for (i = number(&r); i > 0 && !error; i--) error = lay_out(&r, layers, dense, blob);
    free(dense);
    if (error) return error;
    for (i = number(&r); i > 0; i--) put(&r, blob);
    for (i = number(&r); i > 0; i--) { /* maps in memory of their own */
        int64_t base = number(&r);
        if (!(d->base[base] = OWNED(d, number(&r), float))) return DETECTOR_MEMORY;
    }
    for (i = 0; i < d->about.outputs; i++) {
        output *o = &d->outputs[i];
        o->kind = (int)number(&r), o->base = (int)number(&r);
        if (o->kind == DECODED) continue;
        o->offset = number(&r), o->image = number(&r), o->plane = number(&r), o->row = number(&r);
        o->channels = number(&r), o->height = number(&r), o->width = number(&r);
        if (o->kind == CLASSIFIED) {
            const layer *l = &layers[number(&r)];
            d->linear = dense_of(d, l);
            d->linear_bias = OWNED(d, l->outputs, float);
            d->pooled = OWNED(d, o->channels, float);
            if (!d->linear || !d->linear_bias || !d->pooled) return DETECTOR_MEMORY;
            for (j = 0; j < l->outputs; j++) d->linear_bias[j] = float_of(word(l->bias + 4 * j));
        }
    }
    d->steps = (int)number(&r);
    d->rows = OWNED(d, (int64_t)d->steps * d->about.fields, int64_t);
    d->counters = OWNED(d, ((int64_t)d->steps + 1) * 8, int64_t);
    if (!d->rows || !d->counters) return DETECTOR_MEMORY;
    for (i = 0; i < (int64_t)d->steps * d->about.fields; i++) d->rows[i] = number(&r);
    return 0;
}

static int64_t count_of(const header *h, int index) {
    int64_t count = 1;
    int i;
    for (i = 0; i < h->dimensions[index]; i++) count *= h->sizes[index][i];
    return count;
}

static int prepare(detector *d) {
    const header *h = &d->about;
    int64_t batch = h->shape[0], height = h->shape[2], width = h->shape[3];
    int i, c;
    d->input = OWNED(d, batch * 3 * height * width, float);
    if (!d->input) return DETECTOR_MEMORY;
    for (i = 0; i < h->outputs; i++)
        if (!(d->made[i] = OWNED(d, count_of(h, i), float))) return DETECTOR_MEMORY;
    d->columns = OWNED(d, width, int), d->shares = OWNED(d, width, int);
    d->upper = OWNED(d, width * 3, int), d->lower = OWNED(d, width * 3, int);
    if (!d->columns || !d->shares || !d->upper || !d->lower) return DETECTOR_MEMORY;
    for (c = 0; c < 3; c++)
        for (i = 0; i < 256; i++) {
            float x = (float)i / 255.0f;
            d->tables[c][i] = h->task == CLASSIFY ? (x - MEAN[c]) / DEVIATION[c] : x;
        }
    if (h->task != CLASSIFY) {
        d->most = h->sizes[0][1];
        d->boxes = OWNED(d, (int64_t)d->most * 4, float), d->scores = OWNED(d, d->most, float);
        d->order = OWNED(d, d->most, int), d->class_of = OWNED(d, d->most, int);
        if (!d->boxes || !d->scores || !d->order || !d->class_of) return DETECTOR_MEMORY;
    }
    return 0;
}

#ifdef DETECTOR_X86
#include <cpuid.h>

static int best_level(void) {
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA)) return ANY;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    (void)high;
    if ((low & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2)) return ANY;
    unsigned wanted = bit_AVX512F | bit_AVX512VL | bit_AVX512DQ | bit_AVX512BW;
    return (low & 0xe6) == 0xe6 && (b & wanted) == wanted ? AVX512 : AVX2;
}

#else
static int best_level(void) { return ANY; }
#endif

static kernels *kernels_of(int64_t level) {
#ifdef DETECTOR_AVX512
    if (level == AVX512) return detector_kernels_avx512;
#endif
#ifdef DETECTOR_AVX2
    if (level == AVX2) return detector_kernels_avx2;
#endif
#ifdef DETECTOR_ANY
    if (level == ANY) return detector_kernels_any;
#endif
    return NULL;
}

#ifndef __wasm__
static void share(detector *d, int number) {
    d->run(d->rows, 0, d->steps, d->base, d->counters, d->threads, number, RELAX);
}

#ifdef _WIN32
static DWORD WINAPI work(void *given)
#else
static void *work(void *given)
#endif
{
    struct worker *w = given;
    detector *d = w->d;
    int64_t seen = 0;
    lock(&d->guard);
    for (;;) {
        while (d->frame == seen && !d->over) wait_for(&d->begun, &d->guard);
        if (d->over) break;
        seen = d->frame;
        unlock(&d->guard);
        share(d, w->number);
        lock(&d->guard);
        if (--d->busy == 0) wake_all(&d->ended);
    }
    unlock(&d->guard);
    return 0;
}

static int start_team(detector *d) {
    int i;
    if (mutex_init(&d->guard)) return DETECTOR_THREADS;
    if (condition_init(&d->begun)) return mutex_free(&d->guard), DETECTOR_THREADS;
    if (condition_init(&d->ended)) return mutex_free(&d->guard), condition_free(&d->begun), DETECTOR_THREADS;
    d->ready = 1;
    d->team = OWNED(d, d->threads, thread), d->workers = OWNED(d, d->threads, struct worker);
    if (!d->team || !d->workers) return DETECTOR_MEMORY;
    for (i = 1; i < d->threads; i++) {
        d->workers[i].d = d, d->workers[i].number = i;
#ifdef _WIN32
        if (!(d->team[i] = CreateThread(NULL, 0, work, &d->workers[i], 0, NULL))) return DETECTOR_THREADS;
#else
        if (pthread_create(&d->team[i], NULL, work, &d->workers[i])) return DETECTOR_THREADS;
#endif
        d->started++;
    }
    return 0;
}
#endif

static int set_up(detector *d, int threads) {
    header *h = &d->about;
    int error = read_header(h), level = best_level(), i;
    if (error) return error;
    /* the best kernels that the processor has, and the program for the most threads that are wanted and were planned */
    int wanted = threads > 0 ? threads : processors();
    int64_t found_level = -1, found_threads = 0;
    const unsigned char *found = NULL;
    reader r = h->rest;
    for (i = 0; i < h->programs; i++) {
        int64_t its_level = number(&r), its_threads = number(&r);
        const unsigned char *at = section(&r);
        int fits = its_level <= level && kernels_of(its_level) && its_threads <= wanted;
        if (fits && (its_level > found_level || (its_level == found_level && its_threads > found_threads)))
            found = at, found_level = its_level, found_threads = its_threads;
    }
    if (!found) {
        r = h->rest; /* a program for more threads runs with fewer, too */
        for (i = 0; i < h->programs; i++) {
            int64_t its_level = number(&r), its_threads = number(&r);
            const unsigned char *at = section(&r);
            if (its_level <= level && its_level > found_level)
                found = at, found_level = its_level, found_threads = its_threads;
        }
    }
    if (!found || !kernels_of(found_level)) return DETECTOR_PROCESSOR;
    d->run = kernels_of(found_level);
    d->threads = (int)(wanted < found_threads ? wanted : found_threads);
    layer *layers = malloc((size_t)h->layers * sizeof *layers);
    if (!layers) return DETECTOR_MEMORY;
    int64_t most = 1;
    reader list = {h->first_layer};
    for (i = 0; i < h->layers; i++) {
        read_layer(&list, &layers[i]);
        int64_t size = (layers[i].outputs + MOST_BLOCK) * layers[i].taps;
        if (size > most) most = size;
    }
    reader program = {found};
    error = load(d, program, layers, most);
    free(layers);
    if (!error) error = prepare(d);
#ifndef __wasm__
    if (!error && d->threads > 1) error = start_team(d);
#endif
    return error;
}

int detector_create(int threads, detector **made) {
    if (!made) return DETECTOR_NULL;
    *made = NULL;
    if (threads < 0) return DETECTOR_COUNT;
    detector *d = calloc(1, sizeof *d);
    if (!d) return DETECTOR_MEMORY;
    if (mutex_init(&d->turn)) {
        free(d);
        return DETECTOR_THREADS;
    }
    int error = set_up(d, threads);
    if (error) {
        detector_free(d);
        return error;
    }
    *made = d;
    return 0;
}

void detector_free(detector *d) {
    int i;
    if (!d) return;
#ifndef __wasm__
    if (d->ready) {
        lock(&d->guard);
        d->over = 1;
        wake_all(&d->begun);
        unlock(&d->guard);
        for (i = 1; i <= d->started; i++) join(d->team[i]);
        condition_free(&d->begun), condition_free(&d->ended), mutex_free(&d->guard);
    }
#endif
    mutex_free(&d->turn);
    for (i = 0; i < d->owned_count; i++) free(d->owned[i].start);
    free(d->owned);
    free(d);
}

/* ---- a frame ---- */

static void copy_map(const detector *d, const output *o, float *to) {
    int64_t image, channel, row;
    const char *from = (const char *)d->base[o->base] + o->offset;
    for (image = 0; image < d->about.shape[0]; image++)
        for (channel = 0; channel < o->channels; channel++)
            for (row = 0; row < o->height; row++, to += o->width)
                memcpy(to, from + 4 * (image * o->image + channel * o->plane + row * o->row), (size_t)o->width * 4);
}

/* The mean of each channel, and a Linear layer. */
static void classify(const detector *d, const output *o, float *to) {
    int64_t image, channel, row, column, k, classes = d->about.classes;
    const char *from = (const char *)d->base[o->base] + o->offset;
    for (image = 0; image < d->about.shape[0]; image++, to += classes) {
        for (channel = 0; channel < o->channels; channel++) {
            float sum = 0;
            for (row = 0; row < o->height; row++) {
                const float *x = (const float *)(from + 4 * (image * o->image + channel * o->plane + row * o->row));
                for (column = 0; column < o->width; column++) sum += x[column];
            }
            d->pooled[channel] = sum / (float)(o->height * o->width);
        }
        for (k = 0; k < classes; k++) {
            const float *w = d->linear + k * o->channels;
            float sums[8] = {0};
            for (channel = 0; channel + 8 <= o->channels; channel += 8)
                for (int i = 0; i < 8; i++) sums[i] += w[channel + i] * d->pooled[channel + i];
            for (; channel < o->channels; channel++) sums[0] += w[channel] * d->pooled[channel];
            to[k] = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7])) +
                    d->linear_bias[k];
        }
    }
}

/* One call of the kernels; the caller has the turn. */
static void frame(detector *d, const float *input, float *const *outputs) {
    int i;
    d->base[2] = (void *)input;
    for (i = 0; i < d->about.outputs; i++)
        if (d->outputs[i].kind == DECODED) d->base[d->outputs[i].base] = outputs[i];
    memset(d->counters, 0, ((size_t)d->steps + 1) * 8 * sizeof *d->counters);
#ifdef __wasm__
    d->run(d->rows, 0, d->steps, d->base, d->counters, 1, 0, NULL);
#else
    if (d->threads > 1) {
        lock(&d->guard);
        d->busy = d->threads - 1, d->frame++;
        wake_all(&d->begun);
        unlock(&d->guard);
        share(d, 0);
        lock(&d->guard);
        while (d->busy) wait_for(&d->ended, &d->guard);
        unlock(&d->guard);
    } else {
        share(d, 0);
    }
#endif
    for (i = 0; i < d->about.outputs; i++) {
        if (d->outputs[i].kind == PLACED) copy_map(d, &d->outputs[i], outputs[i]);
        if (d->outputs[i].kind == CLASSIFIED) classify(d, &d->outputs[i], outputs[i]);
    }
}

int detector_run_tensor(detector *d, const float *images, float *const *outputs) {
    int i;
    if (!d || !images || !outputs) return DETECTOR_NULL;
    for (i = 0; i < d->about.outputs; i++)
        if (!outputs[i]) return DETECTOR_NULL;
    lock(&d->turn);
    frame(d, images, outputs);
    unlock(&d->turn);
    return 0;
}

/* ---- before the model: as cv2.resize with INTER_LINEAR, bit by bit, and a grey border ---- */

static int64_t rounded(double x) { /* half to even, as Python's round */
    int64_t low = (int64_t)x;
    if (x < 0 && (double)low != x) low--;
    double rest = x - (double)low;
    return low + (rest > 0.5 || (rest == 0.5 && (low & 1)));
}

static int64_t floored(double x) {
    int64_t low = (int64_t)x;
    return low - (x < (double)low);
}

typedef struct {
    const uint8_t *pixels;
    int64_t width, height;
    size_t stride;
} region;

static void across(const detector *d, const uint8_t *row, int64_t width, int *to, int64_t whole_from) {
    int64_t x;
    for (x = 0; x < whole_from; x++) {
        const uint8_t *p = row + d->columns[x];
        int share = d->shares[x], rest = 2048 - share;
        to[3 * x] = p[0] * rest + p[3] * share;
        to[3 * x + 1] = p[1] * rest + p[4] * share;
        to[3 * x + 2] = p[2] * rest + p[5] * share;
    }
    for (; x < width; x++) {
        const uint8_t *p = row + d->columns[x];
        to[3 * x] = p[0] * 2048, to[3 * x + 1] = p[1] * 2048, to[3 * x + 2] = p[2] * 2048;
    }
}

static void resize(detector *d, region from, float *to, int64_t width, int64_t height) {
    int64_t row = d->about.shape[3], plane = row * d->about.shape[2], x, y;
    const float *red = d->tables[0], *green = d->tables[1], *blue = d->tables[2];
    if (from.width == width && from.height == height) {
        for (y = 0; y < height; y++)
            for (x = 0; x < width; x++) {
                const uint8_t *p = from.pixels + (size_t)y * from.stride + 3 * x;
                float *q = to + y * row + x;
                q[0] = red[p[0]], q[plane] = green[p[1]], q[2 * plane] = blue[p[2]];
            }
        return;
    }
    if (from.width == 2 * width && from.height == 2 * height) { /* cv2 takes the mean here */
        for (y = 0; y < height; y++)
            for (x = 0; x < width; x++) {
                const uint8_t *p = from.pixels + (size_t)(2 * y) * from.stride + 6 * x, *s = p + from.stride;
                float *q = to + y * row + x;
                q[0] = red[(p[0] + p[3] + s[0] + s[3] + 2) >> 2];
                q[plane] = green[(p[1] + p[4] + s[1] + s[4] + 2) >> 2];
                q[2 * plane] = blue[(p[2] + p[5] + s[2] + s[5] + 2) >> 2];
            }
        return;
    }
    double scale_x = 1.0 / ((double)width / (double)from.width), scale_y = 1.0 / ((double)height / (double)from.height);
    int64_t whole_from = width;
    for (x = 0; x < width; x++) {
        float f = (float)(((double)x + 0.5) * scale_x - 0.5);
        int64_t left = floored(f);
        f -= (float)left;
        if (left < 0) left = 0, f = 0;
        if (left + 1 >= from.width) {
            if (whole_from > x) whole_from = x;
            if (left >= from.width - 1) left = from.width - 1, f = 0;
        }
        d->columns[x] = (int)(3 * left), d->shares[x] = 2048 - (int)rounded((1.0f - f) * 2048.0f);
    }
    int64_t have_upper = -1, have_lower = -1;
    for (y = 0; y < height; y++) {
        float f = (float)(((double)y + 0.5) * scale_y - 0.5);
        int64_t top = floored(f);
        f -= (float)top;
        int share = (int)rounded(f * 2048.0f), rest = (int)rounded((1.0f - f) * 2048.0f);
        int64_t above = top < 0 ? 0 : top >= from.height ? from.height - 1 : top;
        int64_t below = top + 1 < 0 ? 0 : top + 1 >= from.height ? from.height - 1 : top + 1;
        if (have_upper != above && have_lower == above) {
            int *swapped = d->upper;
            d->upper = d->lower, d->lower = swapped;
            have_lower = have_upper, have_upper = above;
        }
        if (have_upper != above) across(d, from.pixels + (size_t)above * from.stride, width, d->upper, whole_from);
        if (have_lower != below) across(d, from.pixels + (size_t)below * from.stride, width, d->lower, whole_from);
        have_upper = above, have_lower = below;
        const int *u = d->upper, *v = d->lower;
        float *q = to + y * row;
        for (x = 0; x < width; x++, u += 3, v += 3) {
            q[x] = red[(((rest * (u[0] >> 4)) >> 16) + ((share * (v[0] >> 4)) >> 16) + 2) >> 2];
            q[x + plane] = green[(((rest * (u[1] >> 4)) >> 16) + ((share * (v[1] >> 4)) >> 16) + 2) >> 2];
            q[x + 2 * plane] = blue[(((rest * (u[2] >> 4)) >> 16) + ((share * (v[2] >> 4)) >> 16) + 2) >> 2];
        }
    }
}

static void letterbox(detector *d, const detector_image *image, float *to) {
    int64_t height = d->about.shape[2], width = d->about.shape[3], x, y, c;
    double down = (double)height / image->height, along = (double)width / image->width;
    double gain = down < along ? down : along;
    int64_t new_width = rounded(image->width * gain), new_height = rounded(image->height * gain);
    if (new_width < 1) new_width = 1;
    if (new_height < 1) new_height = 1;
    int64_t left = rounded((double)(width - new_width) / 2 - 0.1);
    int64_t top = rounded((double)(height - new_height) / 2 - 0.1);
    if (left < 0) left = 0;
    if (top < 0) top = 0;
    for (c = 0; c < 3; c++) {
        float grey = d->tables[c][114], *plane = to + c * height * width;
        for (y = 0; y < height; y++) {
            int inside = y >= top && y < top + new_height;
            for (x = 0; x < (inside ? left : width); x++) plane[y * width + x] = grey;
            for (x = inside ? left + new_width : width; x < width; x++) plane[y * width + x] = grey;
        }
    }
    region whole = {image->pixels, image->width, image->height, image->stride};
    resize(d, whole, to + top * width + left, new_width, new_height);
}

static int check_images(const detector *d, const detector_image *images, int count) {
    int i;
    if (!d || !images) return DETECTOR_NULL;
    if (count < 1 || count > d->about.shape[0]) return DETECTOR_COUNT;
    for (i = 0; i < count; i++) {
        const detector_image *image = &images[i];
        if (!image->pixels) return DETECTOR_NULL;
        if (image->width < 1 || image->height < 1 || image->width > 1 << 24 || image->height > 1 << 24)
            return DETECTOR_SIZE;
        if (image->stride < (size_t)image->width * 3 || image->stride > PTRDIFF_MAX / (size_t)image->height)
            return DETECTOR_SIZE;
    }
    return 0;
}

/* ---- after the model: as upstream's non_max_suppression, one class a box ---- */

static int comes_later(const detector *d, int a, int b) {
    return d->scores[a] != d->scores[b] ? d->scores[a] < d->scores[b] : a > b;
}

static void sink(const detector *d, int64_t root, int64_t count) {
    int *order = d->order;
    for (;;) {
        int64_t child = 2 * root + 1;
        if (child >= count) return;
        if (child + 1 < count && comes_later(d, order[child + 1], order[child])) child++;
        if (!comes_later(d, order[child], order[root])) return;
        int swapped = order[root];
        order[root] = order[child], order[child] = swapped, root = child;
    }
}

/* The most confident first. */
static void sort(const detector *d, int64_t count) {
    int64_t i;
    for (i = count / 2; i > 0; i--) sink(d, i - 1, count);
    for (i = count - 1; i > 0; i--) {
        int swapped = d->order[0];
        d->order[0] = d->order[i], d->order[i] = swapped;
        sink(d, 0, i);
    }
}

static float clipped(float value, float most) { return value < 0 ? 0 : value > most ? most : value; }

static int suppress(detector *d, const float *rows, const detector_image *image, float confidence, float iou,
                    detector_box *boxes, int room) {
    int64_t each = d->about.sizes[0][2], count = 0, i, j;
    int classes = d->about.classes, k, found = 0;
    for (i = 0; i < d->most; i++) {
        const float *x = rows + i * each;
        if (!(x[4] > confidence)) continue;
        float best = x[5] * x[4];
        int which = 0;
        for (k = 1; k < classes; k++) {
            float score = x[5 + k] * x[4];
            if (score > best) best = score, which = k;
        }
        if (!(best > confidence)) continue;
        float *box = d->boxes + 4 * count;
        box[0] = x[0] - x[2] / 2, box[1] = x[1] - x[3] / 2, box[2] = x[0] + x[2] / 2, box[3] = x[1] + x[3] / 2;
        d->scores[count] = best, d->class_of[count] = which, d->order[count] = (int)count;
        count++;
    }
    sort(d, count);
    if (count > MOST_CANDIDATES) count = MOST_CANDIDATES;
    double down = (double)d->about.shape[2] / image->height, along = (double)d->about.shape[3] / image->width;
    double gain = down < along ? down : along;
    float pad_x = (float)((d->about.shape[3] - image->width * gain) / 2);
    float pad_y = (float)((d->about.shape[2] - image->height * gain) / 2);
    for (i = 0; i < count && found < room; i++) {
        int one = d->order[i];
        if (one < 0) continue;
        const float *a = d->boxes + 4 * one;
        float apart = (float)(d->class_of[one] * CLASS_APART);
        float a0 = a[0] + apart, a1 = a[1] + apart, a2 = a[2] + apart, a3 = a[3] + apart;
        float area = (a2 - a0) * (a3 - a1);
        for (j = i + 1; j < count; j++) {
            int other = d->order[j];
            if (other < 0) continue;
            const float *b = d->boxes + 4 * other;
            float moved = (float)(d->class_of[other] * CLASS_APART);
            float b0 = b[0] + moved, b1 = b[1] + moved, b2 = b[2] + moved, b3 = b[3] + moved;
            float width = (a2 < b2 ? a2 : b2) - (a0 > b0 ? a0 : b0), height = (a3 < b3 ? a3 : b3) - (a1 > b1 ? a1 : b1);
            if (!(width > 0 && height > 0)) continue;
            float shared = width * height;
            if (shared / (area + (b2 - b0) * (b3 - b1) - shared) > iou) d->order[j] = -1;
        }
        detector_box *box = &boxes[found++];
        box->left = clipped((a[0] - pad_x) / (float)gain, (float)image->width);
        box->top = clipped((a[1] - pad_y) / (float)gain, (float)image->height);
        box->right = clipped((a[2] - pad_x) / (float)gain, (float)image->width);
        box->bottom = clipped((a[3] - pad_y) / (float)gain, (float)image->height);
        box->confidence = d->scores[one], box->class_id = d->class_of[one];
    }
    return found;
}

int detector_run(detector *d, const detector_image *images, int count, float confidence, float iou, detector_box *boxes,
                 int room, int *found) {
    int error = check_images(d, images, count), i;
    if (error) return error;
    if (!boxes || !found) return DETECTOR_NULL;
    if (d->about.task == CLASSIFY) return DETECTOR_TASK;
    if (!(confidence >= 0 && confidence <= 1 && iou >= 0 && iou <= 1)) return DETECTOR_THRESHOLD;
    if (room < 1) return DETECTOR_COUNT;
    int64_t image = 3 * (int64_t)d->about.shape[2] * d->about.shape[3];
    int64_t rows = (int64_t)d->about.sizes[0][1] * d->about.sizes[0][2];
    lock(&d->turn);
    for (i = 0; i < count; i++) letterbox(d, &images[i], d->input + i * image);
    frame(d, d->input, d->made);
    for (i = 0; i < count; i++)
        found[i] = suppress(d, d->made[0] + i * rows, &images[i], confidence, iou, boxes + (int64_t)i * room, room);
    unlock(&d->turn);
    return 0;
}

/* exp for what is not above 0, good to a few units in the last place, without libm */
static float exponential(float x) {
    if (!(x > -87.0f)) return x != x ? x : 0;
    double t = (double)x * 1.4426950408889634;
    int64_t whole = floored(t);
    double y = (t - (double)whole) * 0.6931471805599453, sum = 1, term = 1;
    int i;
    for (i = 1; i < 14; i++) term *= y / i, sum += term;
    return (float)sum * float_of((uint32_t)(whole + 127) << 23);
}

int detector_classify(detector *d, const detector_image *images, int count, float *probabilities) {
    int error = check_images(d, images, count), i, k;
    if (error) return error;
    if (!probabilities) return DETECTOR_NULL;
    if (d->about.task != CLASSIFY) return DETECTOR_TASK;
    int classes = d->about.classes;
    int64_t height = d->about.shape[2], width = d->about.shape[3];
    lock(&d->turn);
    for (i = 0; i < count; i++) { /* the square in the middle, resized */
        int64_t side = images[i].width < images[i].height ? images[i].width : images[i].height;
        int64_t top = (images[i].height - side) / 2, left = (images[i].width - side) / 2;
        region middle = {images[i].pixels + (size_t)top * images[i].stride + 3 * left, side, side, images[i].stride};
        resize(d, middle, d->input + i * 3 * height * width, width, height);
    }
    frame(d, d->input, d->made);
    for (i = 0; i < count; i++) {
        const float *x = d->made[0] + (int64_t)i * classes;
        float *p = probabilities + (int64_t)i * classes, most = x[0], sum = 0;
        for (k = 1; k < classes; k++) most = x[k] > most ? x[k] : most;
        for (k = 0; k < classes; k++) sum += p[k] = exponential(x[k] - most);
        for (k = 0; k < classes; k++) p[k] /= sum;
    }
    unlock(&d->turn);
    return 0;
}

/* ---- about the model ---- */

int detector_shape(int shape[4]) {
    header h;
    int error = read_header(&h);
    if (!shape) return DETECTOR_NULL;
    if (!error) memcpy(shape, h.shape, sizeof h.shape);
    return error;
}

int detector_outputs(void) {
    header h;
    int error = read_header(&h);
    return error ? error : h.outputs;
}

int detector_output(int index, int shape[4]) {
    header h;
    int error = read_header(&h);
    if (error) return error;
    if (!shape) return DETECTOR_NULL;
    if (index < 0 || index >= h.outputs) return DETECTOR_COUNT;
    memcpy(shape, h.sizes[index], (size_t)h.dimensions[index] * sizeof *shape);
    return h.dimensions[index];
}

int detector_classes(void) {
    header h;
    int error = read_header(&h);
    return error ? error : h.classes;
}

const char *detector_name(int class_id) {
    header h;
    int i;
    if (read_header(&h) || class_id < 0 || class_id >= h.classes) return NULL;
    const char *name = (const char *)h.names;
    for (i = 0; i < class_id; i++) name += strlen(name) + 1;
    return name;
}

const char *detector_about(void) {
    header h;
    return read_header(&h) ? NULL : h.about;
}

const char *detector_error(int code) {
    switch (code) {
        case 0: return "done";
        case DETECTOR_NULL: return "a pointer is null";
        case DETECTOR_SIZE: return "an image must have 1 to 16777216 columns and rows, and a stride of 3 bytes a column";
        case DETECTOR_MEMORY: return "no memory";
        case DETECTOR_PROCESSOR: return "the processor lacks instructions that this library was compiled for";
        case DETECTOR_THREADS: return "threads cannot be started";
        case DETECTOR_THRESHOLD: return "thresholds must be in [0, 1]";
        case DETECTOR_COUNT: return "images must be 1 to the batch compiled, boxes 1 or more, threads 0 or more";
        case DETECTOR_TASK: return "detector_classify is for classifiers, detector_run for all others";
        case DETECTOR_MODEL: return "the library is damaged";
        default: return "unknown code";
    }
}

#ifdef DETECTOR_TEST
DETECTOR_API const unsigned char *detector_weights(const detector *d);
const unsigned char *detector_weights(const detector *d) { return d->base[0]; }
#endif
