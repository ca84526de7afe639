// Event counters, and the one rule that says why the array did not issue in a cycle.
module scanline_counters
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    input  logic clear_i,
    input  logic running_i,
    // the engines
    input  conv_activity_t conv_i,
    input  load_activity_t load_i,
    input  logic store_busy_i,
    input  logic waiting_sync_i,
    input  logic weights_pending_i,
    // events
    input  logic command_beat_i,
    input  logic write_beat_i,
    input  logic [BankBits:0] words_read_i,
    input  logic [BankBits:0] words_written_i,
    input  logic command_done_i,
    output logic [Counters-1:0][63:0] counters_o
);
  // Exactly one cause per cycle. When the array has nothing to do, the front says what it waits for; when the front
  // has no command either, whoever still works does.
  logic [Counters-1:0] event_now;
  always_comb begin
    event_now = '0;
    event_now[CountCycles] = 1'b1;
    if (conv_i.issue) event_now[CountBusyCycles] = 1'b1;
    else if (conv_i.beside) event_now[stall_beside(conv_i.unit)] = 1'b1;
    else if (conv_i.wait_psum) event_now[CountRequantiseStallCycles] = 1'b1;
    else if (conv_i.front_wait == WaitLoad) begin
      if (load_i.wait_store) event_now[CountStoreStallCycles] = 1'b1;
      else event_now[CountLoadStallCycles] = 1'b1;
    end else if (conv_i.front_wait == WaitStore) event_now[CountStoreStallCycles] = 1'b1;
    else if (conv_i.front_wait == WaitWeights) event_now[CountWeightsStallCycles] = 1'b1;
    else if (conv_i.front_wait == WaitDrain) event_now[CountDrainStallCycles] = 1'b1;
    else if (conv_i.wait_segment || conv_i.front_busy || conv_i.array_busy) event_now[CountFillStallCycles] = 1'b1;
    else if (waiting_sync_i && conv_i.drain_busy) event_now[CountDrainStallCycles] = 1'b1;
    else if (waiting_sync_i && store_busy_i) event_now[CountStoreStallCycles] = 1'b1;
    else if (waiting_sync_i && weights_pending_i) event_now[CountWeightsStallCycles] = 1'b1;
    else if (waiting_sync_i && load_i.busy) event_now[CountLoadStallCycles] = 1'b1;
    else event_now[CountControlStallCycles] = 1'b1;
  end

  // The decision is counted in the next cycle: the longest paths of the machine end in it, 64 bits of carry follow.
  localparam int unsigned StepBits = (BankBits + 1 > 16) ? BankBits + 1 : 16;
  logic [Counters-1:0][StepBits-1:0] step, step_q;
  logic counting_q;
  for (genvar c = 0; c < Counters; c++) begin : gen_counter
    always_comb begin
      unique case (c)
        CountDramCommandReadBeats: step[c] = StepBits'(command_beat_i);
        CountDramWeightReadBeats: step[c] = StepBits'(load_i.weight_beat);
        CountDramLoadReadBeats: step[c] = StepBits'(load_i.load_beat);
        CountDramGatherReadBeats: step[c] = StepBits'(conv_i.gather_beat);
        CountGatheredReads: step[c] = StepBits'(conv_i.gathered);
        CountDramWriteBeats: step[c] = StepBits'(write_beat_i);
        CountScratchpadReadWords: step[c] = StepBits'(words_read_i);
        CountScratchpadWriteWords: step[c] = StepBits'(words_written_i);
        CountRequantisedValues: step[c] = StepBits'(conv_i.values);
        CountCommands: step[c] = StepBits'(command_done_i);
        default: step[c] = StepBits'(event_now[c]);
      endcase
    end
    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) counters_o[c] <= '0;
      else if (clear_i) counters_o[c] <= '0;
      else if (counting_q) counters_o[c] <= counters_o[c] + 64'(step_q[c]);
    end
  end
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) counting_q <= 1'b0;
    else counting_q <= running_i;
  end
  always_ff @(posedge clk_i) begin
    step_q <= step;
  end

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  logic [63:0] check_causes;
  always_comb begin
    check_causes = '0;
    for (int unsigned c = 0; c < Causes; c++) check_causes = check_causes + counters_o[CountBusyCycles+c];
  end
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(OneCause, $onehot(event_now[CountBusyCycles+:Causes]))
      `SCANLINE_ASSERT(CausesAreCycles, check_causes == counters_o[CountCycles])
    end
  end
`endif
endmodule
