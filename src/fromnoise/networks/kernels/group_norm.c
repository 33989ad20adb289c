/* act((1 + scale) GroupNorm(x + addend) + shift), where act is SiLU or the identity, and its gradient. Each image,
   (H W, C), is read from memory once; the passes for the variance and the output read it from the cache.

   One thread processes an image, in a fixed order, so a result depends neither on the other images of the batch nor on
   the number of threads. Sums are in float within BLOCK pixels and in double over the blocks. With -DBF16 images are
   bfloat16. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 64

#ifdef BF16
typedef uint16_t T;

static inline float load(T v) {
    const uint32_t bits = (uint32_t)v << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

static inline T store(float v) { /* rounds to nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return (T)(v != v ? 0x7FC0u : (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}
#else
typedef float T;

static inline float load(T v) { return v; }
static inline T store(float v) { return v; }
#endif

static inline float sigmoid(float y) {
    /* exp(-y) = 2^n 2^f with f in [-0.5, 0.5] and 2^f by its series: relative error 3e-7. NaN stays NaN. */
    float z = y > 87.0f ? 87.0f : y;
    z = (z < -87.0f ? -87.0f : z) * -1.44269504f;
    const float n = rintf(z), f = z - n;
    float p = 1.54035304e-4f;
    p = p * f + 1.33335581e-3f;
    p = p * f + 9.61812911e-3f;
    p = p * f + 5.55041087e-2f;
    p = p * f + 2.40226507e-1f;
    p = p * f + 6.93147181e-1f;
    p = p * f + 1.0f;
    const int32_t bits = (int32_t)((uint32_t)((int32_t)n + 127) << 23);
    float power;
    memcpy(&power, &bits, 4);
    return 1.0f / (1.0f + p * power);
}

/* Arguments of a call. Rows of addend are addend_stride floats apart, rows of scale and shift scale_stride. */
typedef struct {
    const T *x;          /* (B, HW, C) */
    const float *weight; /* (C) */
    const float *bias;   /* (C) */
    const float *addend; /* (B, C) or null */
    const float *scale;  /* (B, C) or null */
    const float *shift;  /* (B, C), null together with scale */
    float *mean;         /* (B, C): mean of the channel's group */
    float *inverse;      /* (B, C): 1 / standard deviation of the channel's group */
    int64_t batch, pixels, channels, groups, addend_stride, scale_stride;
    float eps;
    int32_t silu;
} GroupNorm;

static inline float addend_of(const GroupNorm *m, int64_t b, int64_t c) {
    return m->addend ? m->addend[b * m->addend_stride + c] : 0.0f;
}
static inline float gain_of(const GroupNorm *m, int64_t b, int64_t c) {
    return m->weight[c] * (m->scale ? 1.0f + m->scale[b * m->scale_stride + c] : 1.0f);
}
static inline float offset_of(const GroupNorm *m, int64_t b, int64_t c) {
    return m->scale ? m->bias[c] * (1.0f + m->scale[b * m->scale_stride + c]) + m->shift[b * m->scale_stride + c]
                    : m->bias[c];
}

/* means[c] = mean over the group of channel c, from the sums over each channel; count: values per group. */
static void over_groups(const double *sums, int64_t channels, int64_t groups, double count, double *means) {
    const int64_t size = channels / groups;
    for (int64_t g = 0; g < groups; g++) {
        double sum = 0;
        for (int64_t c = g * size; c < (g + 1) * size; c++) sum += sums[c];
        const double mean = sum / count;
        for (int64_t c = g * size; c < (g + 1) * size; c++) means[c] = mean;
    }
}

/* Sums over the pixels of x - centre, or of its square, per channel. */
static inline __attribute__((always_inline)) void channel_sums(const T *x, int64_t N, int64_t C, const float *centre,
                                                               int square, double *sums) {
    float part[C];
    memset(sums, 0, sizeof(double) * (size_t)C);
    for (int64_t from = 0; from < N; from += BLOCK) {
        const int64_t to = from + BLOCK < N ? from + BLOCK : N;
        memset(part, 0, sizeof part);
        for (int64_t i = from; i < to; i++)
#pragma omp simd
            for (int64_t c = 0; c < C; c++) {
                const float d = load(x[i * C + c]) - centre[c];
                part[c] += square ? d * d : d;
            }
        for (int64_t c = 0; c < C; c++) sums[c] += part[c];
    }
}

static void statistics(const GroupNorm *m, int64_t b) {
    const int64_t C = m->channels, N = m->pixels;
    const T *x = m->x + b * N * C;
    float *mean = m->mean + b * C, *inverse = m->inverse + b * C, centre[C];
    double sums[C], means[C];
    const int64_t size = C / m->groups;
    const double count = (double)N * (double)size;
    for (int64_t c = 0; c < C; c++) centre[c] = -addend_of(m, b, c);
    channel_sums(x, N, C, centre, 0, sums);
    over_groups(sums, C, m->groups, count, means);
    for (int64_t c = 0; c < C; c++) {
        mean[c] = (float)means[c];
        centre[c] = (float)(means[c] - addend_of(m, b, c));
    }
    channel_sums(x, N, C, centre, 1, sums);
    over_groups(sums, C, m->groups, count, means);
    for (int64_t g = 0; g < m->groups; g++) {
        const float each = (float)(1.0 / sqrt(means[g * size] + m->eps));
        for (int64_t c = g * size; c < (g + 1) * size; c++) inverse[c] = each;
    }
}

static void forward_one(const GroupNorm *m, int64_t b, T *out) {
    const int64_t C = m->channels, N = m->pixels;
    float gain[C], offset[C], centre[C];
    statistics(m, b);
    for (int64_t c = 0; c < C; c++) {
        gain[c] = gain_of(m, b, c) * m->inverse[b * C + c];
        offset[c] = offset_of(m, b, c);
        centre[c] = m->mean[b * C + c] - addend_of(m, b, c);
    }
    const T *x = m->x + b * N * C;
    out += b * N * C;
    if (m->silu)
        for (int64_t i = 0; i < N; i++)
#pragma omp simd
            for (int64_t c = 0; c < C; c++) {
                const float y = gain[c] * (load(x[i * C + c]) - centre[c]) + offset[c];
                out[i * C + c] = store(y * sigmoid(y));
            }
    else
        for (int64_t i = 0; i < N; i++)
#pragma omp simd
            for (int64_t c = 0; c < C; c++)
                out[i * C + c] = store(gain[c] * (load(x[i * C + c]) - centre[c]) + offset[c]);
}

void forward(const GroupNorm *m, T *out) {
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < m->batch; b++) forward_one(m, b, out);
}

/* y = gain xhat + offset and g = d loss / d y: grad_offset (B, C) is the sum of g over the pixels, grad_gain (B, C) that
   of g xhat; grad_addend is (B, C) or null. `scratch` stores g of one image. */
static inline __attribute__((always_inline)) void backward_one(const GroupNorm *m, int64_t b, int silu,
                                                               const T *grad, T *grad_x, float *grad_offset,
                                                               float *grad_gain, float *grad_addend, float *scratch) {
    const int64_t C = m->channels, N = m->pixels;
    const double count = (double)N * (double)(C / m->groups);
    const T *x = m->x + b * N * C;
    const float *inverse = m->inverse + b * C;
    float gain[C], offset[C], centre[C], part[C], other[C];
    double sums[C], products[C], means[C];
    grad += b * N * C, grad_x += b * N * C, grad_offset += b * C, grad_gain += b * C;
    for (int64_t c = 0; c < C; c++) {
        gain[c] = gain_of(m, b, c);
        offset[c] = offset_of(m, b, c);
        centre[c] = m->mean[b * C + c] - addend_of(m, b, c);
    }
    memset(sums, 0, sizeof sums);
    memset(products, 0, sizeof products);
    for (int64_t from = 0; from < N; from += BLOCK) {
        const int64_t to = from + BLOCK < N ? from + BLOCK : N;
        memset(part, 0, sizeof part);
        memset(other, 0, sizeof other);
        for (int64_t i = from; i < to; i++)
#pragma omp simd
            for (int64_t c = 0; c < C; c++) {
                const float xhat = (load(x[i * C + c]) - centre[c]) * inverse[c];
                float g = load(grad[i * C + c]);
                if (silu) {
                    const float y = gain[c] * xhat + offset[c], s = sigmoid(y);
                    g *= s * (1.0f + y * (1.0f - s));
                }
                scratch[i * C + c] = g;
                part[c] += g;
                other[c] += g * xhat;
            }
        for (int64_t c = 0; c < C; c++) {
            sums[c] += part[c];
            products[c] += other[c];
        }
    }
    for (int64_t c = 0; c < C; c++) {
        grad_offset[c] = (float)sums[c];
        grad_gain[c] = (float)products[c];
        sums[c] *= gain[c];
        products[c] *= gain[c];
    }
    memset(part, 0, sizeof part);
    over_groups(sums, C, m->groups, count, means);
    for (int64_t c = 0; c < C; c++) offset[c] = (float)means[c] * inverse[c];
    over_groups(products, C, m->groups, count, means);
    for (int64_t c = 0; c < C; c++) {
        gain[c] *= inverse[c];
        other[c] = (float)means[c] * inverse[c];
    }
    for (int64_t i = 0; i < N; i++)
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
            const float xhat = (load(x[i * C + c]) - centre[c]) * inverse[c];
            const float d = gain[c] * scratch[i * C + c] - offset[c] - other[c] * xhat;
            grad_x[i * C + c] = store(d);
            part[c] += d;
        }
    if (grad_addend) memcpy(grad_addend + b * C, part, sizeof part);
}

/* Returns 0, or 1 if out of memory. */
int backward(const GroupNorm *m, const T *grad, T *grad_x, float *grad_offset, float *grad_gain, float *grad_addend) {
    int failed = 0;
#pragma omp parallel
    {
        float *scratch = malloc(sizeof(float) * (size_t)(m->pixels * m->channels));
        if (!scratch) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t b = 0; b < m->batch; b++)
            if (scratch && m->silu)
                backward_one(m, b, 1, grad, grad_x, grad_offset, grad_gain, grad_addend, scratch);
            else if (scratch)
                backward_one(m, b, 0, grad, grad_x, grad_offset, grad_gain, grad_addend, scratch);
        free(scratch);
    }
    return failed;
}
