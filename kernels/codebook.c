/*
 * kernels/codebook.c - which levels codes stand for, and their int8 form.
 *
 * The author's books A and B are what 100 sweeps of Lloyd's algorithm leave behind, so they are rebuilt by the same
 * sweeps; the optimal levels are a table.  The int8 form is a search: half-integer multiples of one step, since then a
 * sign is a bit complement.  The step keeps 16 bits of mantissa, so that another libm's last digits cannot move it.
 */
#include "kernels/hlwq.h"
#include "kernels/numeric.h"

#include <assert.h>
#include <math.h>

/* Positive halves of the optimal Lloyd-Max levels of a unit Gaussian, 1..6 bits. */
static const double converged[6][32] = {
    {0.79788456080286541},
    {0.45278003463649202, 1.5104176084990955},
    {0.24509417894422167, 0.75600528120587729, 1.343909278505, 2.1519457045369874},
    {0.12839502985114701, 0.38804829949029018, 0.65675911853246338, 0.94234045648696141, 1.2562311973471771,
     1.6180463860218826, 2.0690172265313866, 2.7325895709951631},
    {0.065889659770822562, 0.19805182966943216, 0.33137830576011162, 0.46669952297668094, 0.60493362400943185,
     0.74713570368781634, 0.89456511738837152, 1.0487833199231986, 1.211804380609264, 1.3863403395866256,
     1.5762280786121903, 1.7872332177032693, 2.0287283993954972, 2.317739404194735, 2.6911195773766687,
     3.2607324934014006},
    {0.03340950637010074, 0.10027828930388713, 0.16729690336899547, 0.23456698533600931, 0.30219284637169602,
     0.370282645258938,   0.43894967165863519, 0.50831378089799384, 0.57850303051880037, 0.64965558106354038,
     0.72192194056967363, 0.79546765584085932, 0.87047658654411797, 0.94715494474329232, 1.0257363490773348,
     1.1064882395373279,  1.1897201418608732,  1.2757944864337445,  1.3651410198102165,  1.4582763746978018,
     1.5558312247051407,  1.6585889004238565,  1.767541882991204,   1.8839772405224506,  2.0096110425936944,
     2.1468102170558803,  2.2989812097603872,  2.4713047976182803,  2.672273835255278,   2.9174067907230028,
     3.2404370550122108,  3.7441012708953449},
};

static double density(double x)
{
    return exp(-0.5 * x * x) / sqrt(2.0 * 3.14159265358979323846);
}

static double below(double x)
{
    return 0.5 * erfc(-x / sqrt(2.0));
}

/* Mean of a Gaussian between a and b; the midpoint where next to nothing lies there. */
static double mean_between(double a, double b, double guard)
{
    double p = below(b) - below(a);
    double pa = isinf(a) ? 0.0 : density(a), pb = isinf(b) ? 0.0 : density(b);
    return p > guard ? (pa - pb) / p : (a + b) / 2;
}

static void book_a(uint32_t n, float *level)
{
    double t[257], c[256];
    for (uint32_t i = 0; i <= n; i++)
        t[i] = -4.0 + 8.0 * i / n;
    t[0] = -INFINITY;
    t[n] = INFINITY;
    for (int sweep = 0; sweep < 100; sweep++) {
        for (uint32_t i = 0; i < n; i++)
            c[i] = mean_between(t[i], t[i + 1], 1e-10);
        for (uint32_t i = 1; i < n; i++)
            t[i] = (c[i - 1] + c[i]) / 2;
    }
    for (uint32_t i = 0; i < n; i++)
        level[i] = (float)c[i];
}

static void book_b(uint32_t n, float *level)
{
    float t[257];
    for (uint32_t i = 0; i <= n; i++)
        t[i] = -4.0f + 8.0f * (float)i / (float)n;
    for (int sweep = 0; sweep < 100; sweep++) {
        for (uint32_t i = 0; i < n; i++)
            level[i] = (float)mean_between(t[i], t[i + 1], 1e-12);
        for (uint32_t i = 1; i < n; i++)
            t[i] = (level[i - 1] + level[i]) / 2;
    }
}

void hs_book_levels(hs_book_kind kind, uint32_t bits, float *level)
{
    assert(bits >= 1 && bits <= 8);
    uint32_t n = 1u << bits;
    if (kind == HS_BOOK_A) {
        book_a(n, level);
        return;
    }
    if (kind == HS_BOOK_B) {
        book_b(n, level);
        return;
    }
    assert(bits <= 6);
    for (uint32_t i = 0; i < n / 2; i++) {
        level[n / 2 + i] = (float)converged[bits - 1][i];
        level[n / 2 - 1 - i] = -level[n / 2 + i];
    }
}

/* ---- the integer form ----------------------------------------------------------------------- */

typedef struct fit {
    uint32_t n; /* magnitudes */
    const float *level;
    double weight[32]; /* how often a Gaussian falls there */
} fit;

static uint32_t index_of(double level, double step, uint32_t k_max)
{
    double k = floor(level / step); /* nearest (k + 1/2) step */
    return k < 0 ? 0 : k > k_max ? k_max : (uint32_t)k;
}

/* Error of a step, and the step that would suit its indexes best. */
static double error_of(const fit *f, double step, uint32_t k_max, double *better)
{
    double error = 0, lk = 0, kk = 0;
    for (uint32_t m = 0; m < f->n; m++) {
        double k = index_of(f->level[m], step, k_max) + 0.5, d = f->level[m] - k * step;
        error += f->weight[m] * d * d;
        lk += f->weight[m] * k * f->level[m];
        kk += f->weight[m] * k * k;
    }
    *better = lk / kk;
    return error;
}

static double best_step(const fit *f, uint32_t k_max)
{
    double top = f->level[f->n - 1], best = INFINITY, step = top / (k_max + 0.5), unused;
    uint32_t grid = k_max > 127 ? 1 : 8192; /* 14 bits need no search */
    for (uint32_t i = 0; i < grid; i++) {
        double s = top / (k_max + 0.9) * (1.0 + (double)i / grid), refined;
        error_of(f, s, k_max, &refined);
        double e = error_of(f, refined, k_max, &unused);
        if (e < best) {
            best = e;
            step = refined;
        }
    }
    int exponent;
    double mantissa = frexp(step, &exponent);
    return ldexp(rint(mantissa * 65536.0), exponent - 16);
}

static hlwq_status check_levels(uint32_t bits, const float *level, hlwq_error *err)
{
    uint32_t n = 1u << bits;
    float top = level[n - 1];
    for (uint32_t i = 0; i < n; i++) {
        if (!isfinite(level[i]) || fabsf(level[i]) > 1e6f)
            return hs_fail(err, HLWQ_ERR_FORMAT, "level %u of %u is %g", i, n, (double)level[i]);
        if (i && !(level[i] > level[i - 1]))
            return hs_fail(err, HLWQ_ERR_FORMAT, "level %u is %g, not above level %u, which is %g", i, (double)level[i],
                           i - 1, (double)level[i - 1]);
        if (!(fabsf(level[i] + level[n - 1 - i]) <= 1e-6f * top))
            return hs_fail(err, HLWQ_ERR_FORMAT, "levels %u and %u are %g and %g, not mirror images", i, n - 1 - i,
                           (double)level[i], (double)level[n - 1 - i]);
    }
    return HLWQ_OK;
}

/* fp32 numbers by their rank: neighbours are neighbours. */
static float of_rank(int32_t rank)
{
    return hs_bits_float(rank < 0 ? 0x80000000u | (uint32_t)-rank : (uint32_t)rank);
}

static int32_t rank_of(float f)
{
    uint32_t bits = hs_float_bits(f);
    return bits >> 31 ? -(int32_t)(bits & 0x7FFFFFFFu) : (int32_t)bits;
}

/* The least r for which |r - b| < |r - a| as fp32 computes it: false at a, true at b, and it changes once. */
static float bound_between(float a, float b)
{
    int64_t no = rank_of(a), yes = rank_of(b);
    while (yes - no > 1) {
        int64_t middle = no + (yes - no) / 2;
        float r = of_rank((int32_t)middle);
        *(fabsf(r - b) < fabsf(r - a) ? &yes : &no) = middle;
    }
    return of_rank((int32_t)yes);
}

void hs_codebook_cells(hs_codebook *book)
{
    uint32_t below_cell = 0, n = 1u << book->bits;
    for (uint32_t i = 0; i < 256; i++) {
        while (below_cell + 1 < n && hs_level_cell(book, book->bound[below_cell]) < i)
            below_cell++;
        book->start[i] = (uint8_t)below_cell;
    }
}

hlwq_status hs_codebook_init(hs_codebook *book, uint32_t bits, const float *level, hlwq_error *err)
{
    *book = (hs_codebook){.bits = bits};
    if (bits < 2 || bits > 6)
        return hs_fail(err, HLWQ_ERR_FORMAT, "codebook of %u bits, limit 2..6", bits);
    HS_TRY(check_levels(bits, level, err));
    uint32_t n = 1u << bits, half = n / 2, k_max = bits == 6 ? 16255 : 126; /* a complement never is -128 */
    memcpy(book->level, level, n * sizeof *level);

    fit f = {.n = half, .level = level + half};
    for (uint32_t m = 0; m < half; m++) {
        double a = m ? ((double)f.level[m - 1] + f.level[m]) / 2 : 0.0;
        double b = m + 1 < half ? ((double)f.level[m] + f.level[m + 1]) / 2 : INFINITY;
        f.weight[m] = below(b) - below(a) + 1e-12;
    }
    double step = best_step(&f, k_max);
    book->step = (float)step;
    book->scale = book->step / 256.0f;
    for (uint32_t m = 0; m < half; m++)
        book->k[m] = (uint16_t)index_of(f.level[m], step, k_max);

    for (uint32_t i = 0; i < 64; i++) {
        int32_t k = i & half ? ~(int32_t)book->k[i & (half - 1)] : (int32_t)book->k[i & (half - 1)];
        book->biased[i] = (uint8_t)(128 + (bits == 6 ? k >> 7 : k));
        book->biased_low[i] = (uint8_t)(k & 127);
    }

    book->reach = level[n - 1];
    for (uint32_t i = 0; i < sizeof book->bound / sizeof *book->bound; i++)
        book->bound[i] = i + 1 < n ? bound_between(level[i], level[i + 1]) : NAN;
    hs_codebook_cells(book);
    return HLWQ_OK;
}
