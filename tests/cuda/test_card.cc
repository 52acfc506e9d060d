/* kernels/cuda/card.cu: a card that cannot be used is one sentence, and what its kernels take is there before all else.
 */
#include "tests/cuda/sim_test.h"

extern "C" {
#include "kernels/backend.h"
}

static hlwq_status probe(hlwq_error *err)
{
    hs_limits any = {};
    err->message[0] = 0;
    return hs_backend_cuda_probe(&any, err);
}

static void an_old_card_is_refused(void **)
{
    hlwq_error err;
    hs_sim_options o = plain_options();
    o.arch = 61;
    hs_sim_configure(&o);
    assert_int_equal(probe(&err), HLWQ_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "of compute capability 6.1, this program needs 7.5"));
    o.arch = 75;
    hs_sim_configure(&o);
    assert_int_equal(probe(&err), HLWQ_OK);
}

static void where_there_is_no_driver_it_says_so(void **)
{
    hlwq_error err;
    hs_sim_options o = plain_options();
    o.devices = 0;
    hs_sim_configure(&o);
    assert_int_equal(probe(&err), HLWQ_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "no NVIDIA driver"));
}

/* Each call that looks for a card fails once: a sentence, and the next try finds it. */
static void a_card_that_fails_at_once_is_a_sentence(void **)
{
    hlwq_error err;
    hs_sim_options o = plain_options();
    uint64_t n;
    for (n = 1;; n++) {
        o.fail_at = n;
        hs_sim_configure(&o);
        hlwq_status st = probe(&err);
        if (!hs_sim_read_stats().failed_at)
            break;
        assert_int_not_equal(st, HLWQ_OK);
        assert_non_null(strstr(err.message, "graphics card"));
        assert_int_equal(cudaPeekAtLastError(), cudaSuccess);
        assert_int_equal(probe(&err), HLWQ_OK);
    }
    assert_true(n > 50); /* kernels are asked for one by one */
}

static void what_others_have_is_no_context(void **)
{
    uint64_t free_bytes, context_bytes;
    hs_sim_options o = plain_options();
    o.vram_bytes = 2ull << 30;
    hs_sim_configure(&o);
    void *theirs = device<uint8_t>(1 << 30);
    hs_backend_cuda_room(&free_bytes, &context_bytes);
    assert_int_equal(free_bytes, 1ull << 30);
    assert_int_equal(context_bytes, (280ull + 3 * 8) << 20); /* of eight multiprocessors */
    OK(cudaFree(theirs));
    hs_backend_cuda_room(&free_bytes, &context_bytes);
    assert_int_equal(free_bytes, 2ull << 30);
    assert_int_equal(context_bytes, 0);
}

int main(void)
{
    const CMUnitTest tests[] = {
        TEST(an_old_card_is_refused),
        TEST(where_there_is_no_driver_it_says_so),
        TEST(a_card_that_fails_at_once_is_a_sentence),
        TEST(what_others_have_is_no_context),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
