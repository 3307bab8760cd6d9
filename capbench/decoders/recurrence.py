"""An LSTM that attends, over all words of whole captions, with its backward written out.

Autograd through the plain loop (`Attention.advance`, word by word) gives the same, but goes at every word through the
whole gradient of each matrix, of the grid and of its keys. Here each is made once, of all words, behind the loop.

Shapes: N images, B = N K captions, W words in all, L places of which D numbers are seen; an LSTM of H, attention in A.
The first X of the D pass a matrix into the LSTM's gates; if X is 0, the first 4 H of them are added to the gates. Words
are packed as PyTorch packs them: all first words, then all second ones, of the longest caption first.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward  # of (gradient, result)


class AttendingLSTM(torch.autograd.Function):
    """Xu et al. (2015), "Show, Attend and Tell", equations 1 to 6 and 13; beta (section 4.2.1) if there is a gate."""

    @staticmethod
    def forward(
        ctx: Any,
        sizes: list[int],
        rows: Tensor,
        words: Tensor,
        h: Tensor,
        c: Tensor,
        keys: Tensor,
        grid: Tensor,
        query: Tensor,
        energy: Tensor,
        recurrent: Tensor,
        gate: Tensor | None,
        gate_bias: Tensor | None,
        learning: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States after the words (W, H), what they see (W, D), and weights (B, T, L) in the captions' own order.

        Args:
            ctx: keeps what the backward needs.
            sizes: how many captions have a first word, a second one and so on.
            rows: (B,) which caption is the longest, the second longest and so on.
            words: (W, 4 H) what words and biases bring to the LSTM's gates.
            h: (B, H) before the first word, of the longest caption first, and so `c` and `keys`.
            c: (B, H).
            keys: (B, L, A).
            grid: (N, L, D).
            query: (A, H).
            energy: (A,).
            recurrent: (4 H, X + H), from what is seen and the state to the LSTM's gates.
            gate: (1, H), from the state to beta.
            gate_bias: (1,).
            learning: whether there will be a backward.
        """
        through = recurrent.shape[1] - h.shape[1]  # X
        exact = torch.promote_types(keys.dtype, torch.float32)
        weights = keys.new_zeros(len(rows), len(sizes), grid.shape[1], dtype=exact)
        inputs = words.new_empty(len(words), recurrent.shape[1])  # (W, X + H)
        seen = inputs[:, :through] if through else words.new_empty(len(words), grid.shape[2])  # (W, D)
        gates, hs = torch.empty_like(words), words.new_empty(len(words), h.shape[1])
        kept = []
        packed = (tensor.split(sizes) for tensor in (inputs, seen, words, gates, hs))
        for place, (into, saw, word, gated, after) in enumerate(zip(*packed, strict=True)):
            count = len(into)
            some, h, c = rows[:count], h[:count], c[:count]
            compared = (keys[:count] + (h @ query.T).unsqueeze(1)).tanh_()  # (b, L, A)
            scores = (compared.flatten(0, 1) @ energy).view(count, -1)
            weights[some, place] = scores.softmax(-1, dtype=exact)
            attended = torch.bmm(_at(weights, place, grid), grid).flatten(0, 1)[some]
            beta = None if gate is None or gate_bias is None else torch.addmm(gate_bias, h, gate.T).sigmoid_()  # (b, 1)
            saw.copy_(attended if beta is None else attended * beta)
            into[:, through:] = h
            torch.addmm(word, into, recurrent.T, out=gated)
            if not through:
                gated += saw[:, : gated.shape[1]]
            i, f, g, o = gated.chunk(4, 1)
            for each in (i, f, o):
                each.sigmoid_()
            g.tanh_()
            before, c = c, torch.addcmul(i * g, f, c)
            read = c.tanh()
            h = torch.mul(o, read, out=after)
            if learning:
                kept.append((before, read, compared, beta))
        ctx.sizes, ctx.kept, ctx.inputs, ctx.seen, ctx.gates = sizes, kept, inputs, seen, gates
        ctx.save_for_backward(rows, weights, keys, grid, query, energy, recurrent, gate)
        return hs, seen, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hs: Tensor, d_saw: Tensor, d_weights: Tensor) -> tuple[Tensor | None, ...]:
        """`d_x` is the gradient of x."""
        rows, weights, keys, grid, query, energy, recurrent, gate = ctx.saved_tensors
        (captions, words, places), images = weights.shape, len(grid)
        through = recurrent.shape[1] - d_hs.shape[1]
        d_gates, d_keys, d_energy = torch.empty_like(ctx.gates), torch.zeros_like(keys), torch.zeros_like(energy)
        d_queries, d_betas = d_gates.new_empty(len(d_gates), len(query)), d_gates.new_empty(len(d_gates), 1)
        d_attended = grid.new_zeros(captions, words, grid.shape[2])
        d_h, d_c = (d_gates.new_zeros(captions, d_hs.shape[1]) for _ in range(2))
        behind = sum(ctx.sizes)
        for place in reversed(range(words)):
            count = ctx.sizes[place]
            now, some, behind = slice(behind - count, behind), rows[:count], behind - count
            before, read, compared, beta = ctx.kept[place]
            i, f, g, o = ctx.gates[now].chunk(4, 1)
            dh, dc = d_h[:count].add_(d_hs[now]), d_c[:count]
            dc += tanh_backward(dh * o, read)
            d_i, d_f, d_g, d_o = d_gates[now].chunk(4, 1)
            d_i.copy_(sigmoid_backward(dc * g, i))
            d_f.copy_(sigmoid_backward(dc * before, f))
            d_g.copy_(tanh_backward(dc * i, g))
            d_o.copy_(sigmoid_backward(dh * read, o))
            dc *= f
            d_seen, d_before = (d_gates[now] @ recurrent).split((through, len(dh[0])), 1)
            if through:
                d_seen = d_seen + d_saw[now]
            else:
                d_seen = d_saw[now].clone()
                d_seen[:, : d_gates.shape[1]] += d_gates[now]
            dh.copy_(d_before)
            if beta is not None:
                d_betas[now] = (d_seen * ctx.seen[now]).sum(1, keepdim=True) * (1 - beta)  # before the sigmoid
                dh += d_betas[now] * gate
                d_seen = d_seen * beta
            d_attended[some, place] = d_seen
            alpha = weights[some, place]
            d_alpha = torch.bmm(_at(d_attended, place, grid), grid.mT).flatten(0, 1)[some] + d_weights[some, place]
            d_scores = (alpha * (d_alpha - (alpha * d_alpha).sum(1, keepdim=True))).to(keys.dtype)  # (b, L)
            d_energy += d_scores.flatten() @ compared.flatten(0, 1)
            d_compared = tanh_backward(d_scores.unsqueeze(2).expand_as(compared), compared)  # without energy's factor
            d_keys[:count] += d_compared
            d_queries[now] = d_compared.sum(1) * energy
            dh += d_queries[now] @ query
        states = ctx.inputs[:, through:]  # before each word
        d_grid = torch.bmm(
            weights.view(images, -1, places).mT.to(grid.dtype), d_attended.view(images, -1, grid.shape[2])
        )
        return (
            None,
            None,
            d_gates,
            d_h,
            d_c,
            d_keys * energy,
            d_grid,
            d_queries.T @ states,
            d_energy,
            d_gates.T @ ctx.inputs,
            None if gate is None else d_betas.T @ states,
            None if gate is None else d_betas.sum(0),
            None,
        )


def _at(captions: Tensor, place: int, grid: Tensor) -> Tensor:
    """Of (B, T, ...) the words at one place, image by image (N, K, ...), in the grid's precision."""
    return captions[:, place].unflatten(0, (len(grid), -1)).to(grid.dtype)
