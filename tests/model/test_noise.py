import torch

from ebt_policy.model.noise import Noise


def test_a_rows_noise_does_not_depend_on_its_batch_mates():
    together = Noise.from_seeds([3, 7, 11])
    alone = Noise.from_seeds([7])
    for shape in [(4, 2), (16, 2), (1,)]:
        torch.testing.assert_close(together.normal(shape)[1:2], alone.normal(shape), rtol=0, atol=0)


def test_rows_share_their_generators():
    noise, same = Noise.from_seeds(range(4)), Noise.from_seeds(range(4))
    part = noise.rows([2, 0]).normal((5,))
    first = same.normal((5,))
    torch.testing.assert_close(part, first[[2, 0]], rtol=0, atol=0)
    # Rows 1 and 3 have not drawn yet, rows 0 and 2 have.
    second = noise.normal((5,))
    torch.testing.assert_close(second[[1, 3]], first[[1, 3]], rtol=0, atol=0)
    torch.testing.assert_close(second[[0, 2]], same.normal((5,))[[0, 2]], rtol=0, atol=0)


def test_noise_is_standard_normal_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    drawn = Noise.from_seeds(range(8)).normal((1000, 2))
    assert drawn.shape == (8, 1000, 2) and drawn.dtype == torch.float32
    assert abs(drawn.mean()) < 0.05 and abs(drawn.std() - 1) < 0.05
    assert torch.equal(torch.get_rng_state(), state)
    assert len(Noise.from_seeds(range(8))) == 8
