// Runs a netlist of look-up gates and flip-flops, a row of input bits a cycle, and counts every net's changes.
//
// Gates come in an order in which every input is known. Changes are counted between the settled states before one rising
// edge and before the next, so a net changes at most once a cycle.

#include <cstdint>
#include <cstring>
#include <vector>

extern "C" void netlist_run(
    uint64_t cycles, uint64_t first /* that counts */, uint64_t nets,
    uint64_t gates, const uint64_t* tables, const uint32_t* sources /* six a gate */, const uint32_t* targets,
    uint64_t flip_flops, const uint32_t* states, const uint32_t* nexts,
    uint64_t inputs, const uint32_t* input_nets, const uint8_t* stimuli /* [cycles, inputs] */,
    uint64_t outputs, const uint32_t* output_nets, uint8_t* seen /* [cycles, outputs] */,
    int64_t* changes /* [nets] */) {
    std::vector<uint8_t> now(nets, 0), before(nets, 0);
    now[1] = 1;
    for (uint64_t cycle = 0; cycle < cycles; cycle++) {
        for (uint64_t i = 0; i < inputs; i++) now[input_nets[i]] = stimuli[cycle * inputs + i];
        for (uint64_t g = 0; g < gates; g++) {
            const uint32_t* s = sources + 6 * g;
            const unsigned index = now[s[0]] | now[s[1]] << 1 | now[s[2]] << 2 | now[s[3]] << 3 | now[s[4]] << 4 |
                                   now[s[5]] << 5;
            now[targets[g]] = (tables[g] >> index) & 1;
        }
        if (cycle > first) {
            for (uint64_t net = 0; net < nets; net++) changes[net] += now[net] ^ before[net];
        }
        before = now;
        for (uint64_t i = 0; i < outputs; i++) seen[cycle * outputs + i] = now[output_nets[i]];
        for (uint64_t f = 0; f < flip_flops; f++) now[states[f]] = before[nexts[f]];
    }
}
