// A Verilated Scanline with a DRAM behind its AXI master and a C interface for Python.
//
// The DRAM serves one channel of reads and one of writes from a shared bandwidth. Latency is counted from the address
// handshake to the first data beat. Inputs change after the rising edge, so the design sees them at the next one.

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "Vscanline.h"
#include "verilated.h"
#include "verilated_save.h"
#ifdef SCANLINE_FORCE
#include "verilated_syms.h"
#endif
#ifdef SCANLINE_TRACE
#include "verilated_vcd_c.h"
#endif

namespace {

// An entry of the activity log: what scanline_top's activity_o showed from this cycle on, as far as it changed or pulsed.
struct Activity {
    uint64_t cycle;
    uint64_t bits;
};

struct Burst {
    uint64_t address;
    unsigned beats;
    uint64_t ready;  // first cycle in which data may move
    bool failed;
};

// What the library printed since the last failed assertion; a model is stepped by one thread at a time.
thread_local std::string printed;
thread_local struct Model* stepping = nullptr;

constexpr int kPatience = 256;  // cycles until a register access counts as not answered
constexpr uint64_t kPulses = 0x3f;  // bits of activity_o that stand for one event each; the others are levels

struct Model {
    VerilatedContext context;
    std::unique_ptr<Vscanline> top;
    std::vector<uint8_t> memory;
    unsigned bus_bytes = sizeof(Vscanline::m_axi_wdata);
    uint64_t cycle = 0;
    unsigned latency = 100;
    uint64_t bandwidth = 16 * 256;  // bytes per cycle x 256
    uint64_t credit = 0;
    unsigned stall_per_256 = 0;
    uint64_t random = 1;
    std::deque<Burst> reads, writes;
    std::deque<std::pair<uint64_t, bool>> responses;  // cycle, failed
    bool last_was_read = false;
    bool log_activity = false;
    uint64_t last_activity = 0;
    std::vector<Activity> activity;
    std::vector<uint8_t> snapshot;
    std::set<std::string> failed;  // messages of the assertions that have
    std::string forceable;
    std::string failures;          // a line for each: the cycle of the first time, its message
    uint64_t fail_read_first = 1, fail_read_end = 0, fail_write_first = 1, fail_write_end = 0;
#ifdef SCANLINE_TRACE
    std::unique_ptr<VerilatedVcdC> trace;
#endif

    bool stalled() {
        if (stall_per_256 == 0) return false;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        return (random & 255) < stall_per_256;
    }

    void step() {
        Vscanline& t = *top;
        stepping = this;
        // What the edge transfers.
        const bool ar = t.m_axi_arvalid && t.m_axi_arready;
        const bool aw = t.m_axi_awvalid && t.m_axi_awready;
        const bool r = t.m_axi_rvalid && t.m_axi_rready;
        const bool w = t.m_axi_wvalid && t.m_axi_wready;
        const bool b = t.m_axi_bvalid && t.m_axi_bready;
        if (ar) {
            const uint64_t first = t.m_axi_araddr;
            const uint64_t end = first + uint64_t(t.m_axi_arlen + 1) * bus_bytes;
            const bool failed = end > memory.size() || (first < fail_read_end && end > fail_read_first);
            reads.push_back({first, unsigned(t.m_axi_arlen) + 1, cycle + latency, failed});
        }
        if (aw) {
            const uint64_t first = t.m_axi_awaddr;
            const uint64_t end = first + uint64_t(t.m_axi_awlen + 1) * bus_bytes;
            const bool failed = end > memory.size() || (first < fail_write_end && end > fail_write_first);
            writes.push_back({first, unsigned(t.m_axi_awlen) + 1, cycle, failed});
        }
        if (w) {
            Burst& burst = writes.front();
            uint8_t data[64];
            uint64_t strobe = 0;
            std::memcpy(data, &t.m_axi_wdata, bus_bytes);
            std::memcpy(&strobe, &t.m_axi_wstrb, sizeof(t.m_axi_wstrb));
            if (!burst.failed) {
                for (unsigned i = 0; i < bus_bytes; i++)
                    if (strobe >> i & 1) memory[burst.address + i] = data[i];
            }
            burst.address += bus_bytes;
            if (--burst.beats == 0) {
                responses.push_back({cycle + latency, burst.failed});
                writes.pop_front();
            }
            credit -= uint64_t(bus_bytes) * 256;
            last_was_read = false;
        }
        if (r) {
            Burst& burst = reads.front();
            burst.address += bus_bytes;
            if (--burst.beats == 0) reads.pop_front();
            credit -= uint64_t(bus_bytes) * 256;
            last_was_read = true;
        }
        if (b) responses.pop_front();

        t.clk_i = 1;
        t.eval();
#ifdef SCANLINE_TRACE
        if (trace) trace->dump(2 * cycle + 1);
#endif
        cycle++;
        if (log_activity) {
            const uint64_t now = t.activity_o;
            if ((now & kPulses) != 0 || now != last_activity) activity.push_back({cycle, now});
            last_activity = now;
        }

        // What the memory offers in the next cycle.
        credit += bandwidth;
        const uint64_t cap = uint64_t(bus_bytes) * 256 + bandwidth;
        if (credit > cap) credit = cap;
        const bool still = stalled();
        const bool open = credit >= uint64_t(bus_bytes) * 256 && !still;
        const bool both = credit >= 2 * uint64_t(bus_bytes) * 256;
        const bool read_ready = !reads.empty() && reads.front().ready <= cycle;
        const bool write_ready = !writes.empty();
        const bool write_waits = write_ready && t.m_axi_wvalid;
        bool give_read = open && read_ready, give_write = open && write_ready;
        if (give_read && give_write && !both) {
            if (write_waits && last_was_read) give_read = false;
            else give_write = false;
        }
        t.m_axi_rvalid = give_read;
        if (give_read) {
            const Burst& burst = reads.front();
            if (burst.failed) std::memset(&t.m_axi_rdata, 0, bus_bytes);
            else std::memcpy(&t.m_axi_rdata, &memory[burst.address], bus_bytes);
            t.m_axi_rresp = burst.failed ? 2 : 0;
            t.m_axi_rlast = burst.beats == 1;
        }
        t.m_axi_wready = give_write;
        t.m_axi_arready = reads.size() < 64 && !still;
        t.m_axi_awready = writes.size() < 16 && !still;
        t.s_axil_bready = t.s_axil_rready = !still;
        const bool respond = !responses.empty() && responses.front().first <= cycle;
        t.m_axi_bvalid = respond;
        t.m_axi_bresp = respond && responses.front().second ? 2 : 0;

        t.clk_i = 0;
        t.eval();
#ifdef SCANLINE_TRACE
        if (trace) trace->dump(2 * cycle);
#endif
    }

    void note_failure(std::string message) {
        while (!message.empty() && message.back() == '\n') message.pop_back();
        message = message.substr(message.rfind('\n') + 1);
        if (failed.insert(message).second) failures += std::to_string(cycle) + " " + message + "\n";
    }

    void reset() {
        Vscanline& t = *top;
        reads.clear();
        writes.clear();
        responses.clear();
        credit = 0;
        t.rst_ni = 0;
        t.s_axil_awvalid = t.s_axil_wvalid = t.s_axil_arvalid = 0;
        t.s_axil_bready = t.s_axil_rready = 1;
        t.m_axi_rvalid = t.m_axi_bvalid = t.m_axi_wready = t.m_axi_arready = t.m_axi_awready = 0;
        for (int i = 0; i < 4; i++) step();
        t.rst_ni = 1;
        step();
    }
};

// Verilator's own snapshot files end the process when something is wrong with them; these live in memory.
class Writer final : public VerilatedSerialize {
public:
    std::vector<uint8_t> bytes;
    void flush() override {
        bytes.insert(bytes.end(), m_bufp, m_cp);
        m_cp = m_bufp;
    }
};

class Reader final : public VerilatedDeserialize {
    const uint8_t* next;
    const uint8_t* end;

public:
    Reader(const uint8_t* data, uint64_t size) : next(data), end(data + size) { m_endp = m_bufp; }
    void fill() override {
        const size_t left = m_endp - m_cp;
        std::memmove(m_bufp, m_cp, left);
        const size_t more = std::min(size_t(end - next), bufferSize() - left);
        std::memcpy(m_bufp + left, next, more);
        std::memset(m_bufp + left + more, 0, bufferSize() - left - more);
        next += more;
        m_cp = m_bufp;
        m_endp = m_bufp + bufferSize();
    }
};

// Plain records, and sequences of them.
template <typename Record>
void put(Writer& os, const Record& record) {
    os.write(&record, sizeof(Record));
}

template <typename Record>
void get(Reader& is, Record& record) {
    is.read(static_cast<void*>(&record), sizeof(Record));
}

template <typename Sequence>
void put_all(Writer& os, const Sequence& sequence) {
    put(os, uint64_t(sequence.size()));
    for (const auto& record : sequence) put(os, record);
}

template <typename Sequence>
void get_all(Reader& is, Sequence& sequence) {
    uint64_t size = 0;
    get(is, size);
    sequence.clear();
    for (uint64_t i = 0; i < size; i++) {
        typename Sequence::value_type record{};
        get(is, record);
        sequence.push_back(record);
    }
}

}  // namespace

int scanline_printf(const char* format, ...) {
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    const int length = std::vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    printed += text;
    return length;
}

// An assertion's $error ends here instead of in the end of the process.
void vl_stop(const char*, int, const char*) {
    if (stepping != nullptr) stepping->note_failure(printed);
    printed.clear();
}

#pragma GCC visibility push(default)
extern "C" {

Model* scanline_new(uint64_t memory_bytes) {
    auto* model = new Model;
    model->context.randReset(2);
    model->context.randSeed(1);
#ifdef SCANLINE_TRACE
    model->context.traceEverOn(true);
#endif
    model->top = std::make_unique<Vscanline>(&model->context);
    model->memory.resize(memory_bytes);
    model->reset();
    return model;
}

void scanline_delete(Model* model) {
    model->top->final();
    delete model;
}

uint8_t* scanline_memory(Model* model) { return model->memory.data(); }
uint64_t scanline_memory_bytes(Model* model) { return model->memory.size(); }
uint64_t scanline_cycle(Model* model) { return model->cycle; }
void scanline_reset(Model* model) { model->reset(); }

void scanline_dram(Model* model, unsigned latency, uint64_t bandwidth_256, unsigned stall_per_256, uint64_t seed) {
    model->latency = latency;
    model->bandwidth = bandwidth_256;
    model->stall_per_256 = stall_per_256;
    model->random = seed * 2 + 1;
}

void scanline_fail(Model* model, uint64_t read_first, uint64_t read_end, uint64_t write_first, uint64_t write_end) {
    model->fail_read_first = read_first;
    model->fail_read_end = read_end;
    model->fail_write_first = write_first;
    model->fail_write_end = write_end;
}

void scanline_step(Model* model, uint64_t cycles) {
    const size_t before = model->failures.size();
    for (uint64_t i = 0; i < cycles && model->failures.size() == before; i++) model->step();
}

// The assertions that have failed, a line each: the cycle of the first time and what Verilator said; for steps and runs, which
// end at every one that is new.
const char* scanline_failures(Model* model) { return model->failures.c_str(); }

// Steps until the interrupt line rises or an assertion fails; returns whether the line rose within the cycles given.
int scanline_run(Model* model, uint64_t cycles) {
    const size_t before = model->failures.size();
    for (uint64_t i = 0; i < cycles && model->failures.size() == before; i++) {
        if (model->top->interrupt_o) return 1;
        model->step();
    }
    return model->top->interrupt_o;
}

// Everything that the next cycles depend on: its size and, until the next call, where it lies.
uint64_t scanline_save(Model* model) {
    Writer os;
    put(os, uint64_t(model->memory.size()));
    os.write(model->memory.data(), model->memory.size());
    put(os, model->cycle);
    put(os, model->latency);
    put(os, model->bandwidth);
    put(os, model->credit);
    put(os, model->stall_per_256);
    put(os, model->random);
    put(os, model->last_was_read);
    put(os, model->log_activity);
    put(os, model->last_activity);
    put_all(os, model->reads);
    put_all(os, model->writes);
    put_all(os, model->responses);
    put_all(os, model->activity);
#ifndef SCANLINE_FORCE
    os << *model->top;
#endif
    os.flush();
    model->snapshot.swap(os.bytes);
    return model->snapshot.size();
}

const uint8_t* scanline_snapshot(Model* model) { return model->snapshot.data(); }

// Returns 0, or -1 when the snapshot is of a model with another memory.
int scanline_restore(Model* model, const uint8_t* data, uint64_t bytes) {
    Reader is(data, bytes);
    uint64_t size = 0;
    get(is, size);
    if (size != model->memory.size()) return -1;
    is.read(model->memory.data(), size);
    get(is, model->cycle);
    get(is, model->latency);
    get(is, model->bandwidth);
    get(is, model->credit);
    get(is, model->stall_per_256);
    get(is, model->random);
    get(is, model->last_was_read);
    get(is, model->log_activity);
    get(is, model->last_activity);
    get_all(is, model->reads);
    get_all(is, model->writes);
    get_all(is, model->responses);
    get_all(is, model->activity);
#ifndef SCANLINE_FORCE
    is >> *model->top;
#endif
    return 0;
}

// Log the engines' activity from now on; entries so far, and where they are.
void scanline_log_activity(Model* model, int on) { model->log_activity = on != 0; }
uint64_t scanline_activity_entries(Model* model) { return model->activity.size(); }
const Activity* scanline_activity(Model* model) { return model->activity.data(); }

int scanline_write_register(Model* model, uint32_t address, uint32_t value) {
    Vscanline& t = *model->top;
    t.s_axil_awaddr = address;
    t.s_axil_wdata = value;
    t.s_axil_awvalid = t.s_axil_wvalid = 1;
    t.eval();
    for (int i = 0; i < kPatience; i++) {
        const bool taken = t.s_axil_awready && t.s_axil_wready;
        model->step();
        if (taken) {
            t.s_axil_awvalid = t.s_axil_wvalid = 0;
            t.eval();
            return 0;
        }
    }
    return -1;
}

int64_t scanline_read_register(Model* model, uint32_t address) {
    Vscanline& t = *model->top;
    t.s_axil_araddr = address;
    t.s_axil_arvalid = 1;
    t.eval();
    for (int i = 0; i < kPatience; i++) {
        const bool taken = t.s_axil_arready;
        model->step();
        if (taken) {
            t.s_axil_arvalid = 0;
            t.eval();
            const int64_t value = t.s_axil_rdata;
            model->step();
            return value;
        }
    }
    return -1;
}

// From the next step on `bits` bits of a signal, from bit `first` on, are `value` instead of what drives them; 0 bits: no
// longer. The signal is one that the build was made for; returns 0, or -1 when there is no such signal in the instance.
int scanline_force(Model* model, const char* instance, const char* signal, unsigned first, unsigned bits, uint64_t value) {
#ifdef SCANLINE_FORCE
    const VerilatedScope* scope = model->context.scopeFind(instance);
    if (scope == nullptr) return -1;
    VerilatedVar* enable = scope->varFind((std::string(signal) + "__VforceEn").c_str());
    VerilatedVar* forced = scope->varFind((std::string(signal) + "__VforceVal").c_str());
    if (enable == nullptr || forced == nullptr) return -1;
    auto* enabled = static_cast<uint8_t*>(enable->datap());
    auto* values = static_cast<uint8_t*>(forced->datap());
    if (bits == 0) std::memset(enabled, 0, enable->totalSize());
    for (unsigned i = 0; i < bits; i++) {
        const unsigned bit = first + i, mask = 1u << (bit % 8);
        enabled[bit / 8] |= mask;
        values[bit / 8] = (values[bit / 8] & ~mask) | (value >> i & 1 ? mask : 0);
    }
    return 0;
#else
    return -1;
#endif
}

// A line for every signal that can be forced: its instance, its name and its bits.
const char* scanline_forceable(Model* model) {
    model->forceable.clear();
#ifdef SCANLINE_FORCE
    const std::string suffix = "__VforceEn";
    for (const auto& scope : *model->context.scopeNameMap()) {
        if (scope.second->varsp() == nullptr) continue;
        for (const auto& signal : *scope.second->varsp()) {
            const std::string name = signal.first;
            if (name.size() <= suffix.size() || name.compare(name.size() - suffix.size(), suffix.size(), suffix) != 0) continue;
            model->forceable += std::string(scope.first) + " " + name.substr(0, name.size() - suffix.size()) + " " +
                std::to_string(signal.second.entBits()) + "\n";
        }
    }
#endif
    return model->forceable.c_str();
}

int scanline_trace(Model* model, const char* path) {
#ifdef SCANLINE_TRACE
    if (model->trace) {
        model->trace->close();
        model->trace.reset();
    }
    if (path != nullptr) {
        model->trace = std::make_unique<VerilatedVcdC>();
        model->top->trace(model->trace.get(), 99);
        model->trace->open(path);
        if (!model->trace->isOpen()) return -2;
    }
    return 0;
#else
    (void)model;
    (void)path;
    return -1;
#endif
}

}  // extern "C"
#pragma GCC visibility pop
