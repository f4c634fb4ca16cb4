/* Whether a sequence's blocks can get into each other's way: between two barriers no block may write what another may still read.
 *
 * What one thread reads and writes in the same place (a residual, a row that is activated in place) is no conflict. A stage of one
 * block cannot have any.
 */
#include "sequence-stages.cuh"

namespace
{

struct range {
    const uint8_t *first;
    uint64_t n_bytes;
    bool same_thread; /* read only by the thread that writes the same element */
};

enum { MOST = MATMUL_MAX_PARTS + 2 * SEQ_MAX_CHAINS + 8 }; /* of one kind in a stage, its norms included */

struct accesses {
    range reads[MOST], writes[MOST];
    uint32_t n_reads, n_writes;
};

void read(accesses &x, const void *first, uint64_t n_bytes, bool same_thread)
{
    if (first)
        x.reads[x.n_reads++] = {(const uint8_t *)first, n_bytes, same_thread};
}

void write(accesses &x, const void *first, uint64_t n_bytes)
{
    if (first)
        x.writes[x.n_writes++] = {(const uint8_t *)first, n_bytes, false};
}

bool conflict(const range &r, const range &w)
{
    return overlap(r.first, r.n_bytes, w.first, w.n_bytes) && !(r.same_thread && r.first == w.first);
}

uint32_t count(const accesses &x)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < x.n_reads; i++) {
        for (uint32_t k = 0; k < x.n_writes; k++)
            n += conflict(x.reads[i], x.writes[k]);
    }
    return n;
}

/* A norm that every block does for itself. */
void add_own(accesses &x, const norms_params &p)
{
    read(x, p.in, 4ull * p.width, false);
    write(x, p.out, 4ull * p.width);
    write(x, p.sum, 4ull * p.width);
    write(x, p.codes, p.codes ? act_row_bytes(ACT_Q8, p.width) : 0);
}

/* Norms of one block beside others. */
void add_norms(accesses &x, const norms_params &p)
{
    read(x, p.add, 4ull * p.width, true);
    add_own(x, p);
}

void add_experts(accesses &x, const seq_product &p, const seq_mixture &m)
{
    const uint64_t row = 4ull * p.part[0].n_out;
    if (p.pair_units) {
        read(x, p.act, p.act ? act_row_bytes(ACT_Q8, p.n_in) : 0, false);
        write(x, p.part[0].out, 4ull * m.hidden_stride * (p.n_pairs - 1) + row);
    } else {
        read(x, p.act, 4ull * (m.hidden_stride * (p.n_pairs - 1) + p.n_in), false);
        read(x, m.add, row, true);
        write(x, p.part[0].out, m.combines ? row : 4ull * m.output_stride * (p.n_pairs - 1) + row);
    }
    read(x, m.route.logits, 4ull * m.route.n_experts, false);
    write(x, m.route.experts, 4ull * m.route.n_used);
    write(x, m.route.weights, 4ull * m.route.n_used);
}

void add_product(accesses &x, const seq_stage &s)
{
    const seq_product &p = s.product;
    const uint64_t row = 4ull * p.part[0].n_out;
    read(x, p.act, input_bytes(s), false);
    read(x, p.times, row, true);
    for (uint32_t i = 0; i < p.n_parts / p.n_passes; i++) {
        read(x, p.part[i].epilogue == MATMUL_ADD ? p.part[i].out : NULL, 4ull * p.part[i].n_out, true);
        write(x, p.part[i].out, 4ull * p.part[i].n_out);
    }
    write(x, p.made, row);
    write(x, p.codes, p.codes ? act_row_bytes(ACT_Q8, p.part[0].n_out) : 0);
}

/* A head's lanes read all of it before they write any. */
void add_heads(accesses &x, const seq_heads &p)
{
    for (uint32_t c = 0; c < p.n_chains; c++) {
        const uint64_t n_bytes = 4ull * p.chains[c].n_heads * p.head_dim;
        read(x, p.chains[c].in, n_bytes, true);
        write(x, p.chains[c].out, n_bytes);
        write(x, p.chains[c].out2, n_bytes);
    }
    if (p.norms.width)
        add_norms(x, p.norms);
}

void add_glu(accesses &x, const glu_params &p)
{
    read(x, p.gate, 4ull * p.width, true);
    read(x, p.up, 4ull * p.width, true);
    write(x, p.out, 4ull * p.width);
    write(x, p.codes, p.codes ? act_row_bytes((enum act_format)p.format, p.width) : 0);
}

} // namespace

extern "C" uint32_t sequence_conflicts(const struct sequence *sequence)
{
    const seq_params *a = (const seq_params *)sequence; /* its first member */
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->n_stages; i++) {
        const seq_stage &s = a->stages[i];
        accesses x = {};
        if (s.own)
            add_own(x, a->own[s.own - 1]);
        if (is_product(s) && s.product.n_pairs)
            add_experts(x, s.product, a->mixture);
        else if (is_product(s))
            add_product(x, s);
        else if (s.kind == SEQ_HEADS)
            add_heads(x, s.heads);
        else if (s.kind == SEQ_GLU)
            add_glu(x, s.glu);
        else if (s.kind == SEQ_ROUTER)
            write(x, s.router.out, 4ull * s.router.n_out);
        if (s.n_blocks > 1)
            n += count(x);
    }
    return n;
}
