/* Decoding allocates nothing: every call of the allocator is counted while tokens are made. */
#include "include/hlwq_stream.h"
#include "tests/support/check.h"
#include "tests/support/demo.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

static atomic_long calls;

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void *malloc(size_t n);
void *calloc(size_t n, size_t size);
void *realloc(void *p, size_t n);
void *aligned_alloc(size_t align, size_t n);

void *malloc(size_t n)
{
    atomic_fetch_add(&calls, 1);
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    atomic_fetch_add(&calls, 1);
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    atomic_fetch_add(&calls, 1);
    return __libc_realloc(p, n);
}

void *aligned_alloc(size_t align, size_t n)
{
    atomic_fetch_add(&calls, 1);
    return __libc_memalign(align, n);
}

static void decode(hlwq_draft draft)
{
    hlwq_error err;
    hlwq_engine *e;
    hlwq_session *s;
    hlwq_engine_options o = demo_options(test_device());
    o.threads = 2;
    o.draft = draft;
    o.draft_always = true;
    long before = atomic_load(&calls);
    CHECK_OK(hlwq_engine_open(&o, &e, &err), err);
    assert_true(atomic_load(&calls) > before); /* the count counts */
    hlwq_session_options so = hlwq_session_options_default(e);
    so.context = 256;
    CHECK_OK(hlwq_session_open(e, &so, &s, &err), err);
    CHECK_OK(hlwq_session_prompt(s, "The old man looked at the sea and", &err), err);
    int32_t id;
    CHECK_OK(hlwq_session_next(s, &id, &err), err);
    before = atomic_load(&calls);
    for (int i = 0; i < 100; i++) /* over the edge of a KV page */
        CHECK_OK(hlwq_session_next(s, &id, &err), err);
    assert_int_equal(atomic_load(&calls) - before, 0);
    hlwq_session_close(s);
    hlwq_engine_close(e);
}

static void decoding_calls_no_allocator(void **state)
{
    (void)state;
    decode(HLWQ_DRAFT_OFF);
}

static void nor_does_drafting(void **state)
{
    (void)state;
    decode(HLWQ_DRAFT_AUTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decoding_calls_no_allocator),
        cmocka_unit_test(nor_does_drafting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
    puts("skipped: a sanitizer has the allocator");
    return 77;
}

#endif
