// The middle of the convolution engine: the window of row segments, the step sequencer, operand selection and the
// multiply-accumulate array. A finished set of psums moves to a second set of registers, so that requantisation drains
// it while the next one accumulates.
module scanline_conv_array
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    // rows
    input  logic row_valid_i,
    output logic row_ready_o,
    input  row_t row_i,
    // segments arriving from the scratchpad
    input  logic segment_valid_i,
    input  logic segment_x2_i,
    input  segment_data_t segment_data_i,
    input  logic segment_granted_i,  // a segment will arrive in the next cycle
    output logic [3:0] window_free_o,
    // weight memory: a word and its step, one cycle after the read
    output logic weight_read_o,
    output logic [WeightAddrBits-1:0] weight_addr_o,
    input  logic [CoLanes-1:0][CiLanes-1:0][7:0] weight_word_i,
    input  step_word_t step_word_i,
    // psums of PixelLanes pixels for one set of output channels, to the requantiser
    output logic psum_valid_o,
    // psums made elsewhere, of one pixel and one channel group, while the array is idle and their place empty
    input  psum_write_t unit_psum_i,
    input  logic psum_free_i,   // psums of a last step issued from now on find their place empty
    output logic [PixelLanes-1:0][CoLanes-1:0][31:0] psum_o,
    // state, for the counters
    output logic busy_o,
    output logic issue_o,
    output logic wait_segment_o,
    output logic wait_psum_o
);
  // Window: a ring of slots. A slot is spoken for from the grant on, readable once its data has landed.
  logic [SegmentPixels-1:0][CiLanes-1:0][7:0] window_q[WindowSlots];
  logic [2:0] fill_slot_q, oldest_q;
  logic [3:0] spoken_q, landed_q;
  logic [3:0] free_now;
  assign window_free_o = 4'(WindowSlots) - spoken_q;

  logic [SegmentPixels-1:0][CiLanes-1:0][7:0] arriving;
  always_comb begin
    for (int unsigned i = 0; i < SegmentPixels; i++) begin
      arriving[i] = segment_data_i[i];
      if (segment_x2_i && (2 * i < Banks)) arriving[i] = segment_data_i[(2*i)%Banks];
    end
  end

  // Step sequencer: address stage, then the word stage that issues.
  row_t row_q;
  logic active_q;                  // a row is being read from the weight memory
  logic [15:0] step_q, group_q;
  logic word_valid_q;              // step_word_i and weight_word_i are valid
  logic first_q;                   // the word starts a set of output channels
  logic issue, last_step, last_group, read;
  assign last_step  = step_q + 16'd1 == row_q.steps_count;
  assign last_group = group_q + 16'd1 == row_q.pixel_groups;
  assign read = active_q && (!word_valid_q || issue);
  assign weight_read_o = read;
  assign weight_addr_o = WeightAddrBits'(16'(row_q.steps_base) + step_q);
  assign row_ready_o = !active_q || (read && last_step && last_group);

  // Issue: every selected slot has landed, and a finished set of psums has somewhere to go.
  logic slots_landed, psum_taken_q;
  always_comb begin
    slots_landed = 1'b1;
    for (int unsigned s = 0; s < Selectors; s++) begin
      if ({1'b0, step_word_i.selectors[s].slot} >= landed_q) slots_landed = 1'b0;
    end
  end
  assign issue = word_valid_q && slots_landed && (!step_word_i.last || !psum_taken_q || psum_free_i);
  assign free_now = issue ? step_word_i.free : '0;
  assign issue_o = issue;
  assign wait_segment_o = word_valid_q && !slots_landed;
  assign wait_psum_o = word_valid_q && slots_landed && !issue;

  // Operands: one vector of PixelLanes x CiLanes per lane group.
  logic signed [7:0] operand[LaneGroups][CiLanes][PixelLanes];
  always_comb begin
    for (int unsigned g = 0; g < LaneGroups; g++) begin
      for (int unsigned h = 0; h < ChannelParts; h++) begin
        selector_t sel;
        logic [SegmentPixels-1:0][CiLanes-1:0][7:0] segment;
        sel = step_word_i.selectors[g*ChannelParts+h];
        segment = window_q[oldest_q+sel.slot] >> (32'(sel.shift) * WordBits);
        for (int unsigned p = 0; p < PixelLanes; p++) begin
          for (int unsigned j = 0; j < PartLanes; j++) begin
            operand[g][h*PartLanes+j][p] = (ChannelParts == 2 && sel.part) ? segment[p][(PartLanes+j)%CiLanes]
                                                                          : segment[p][j];
          end
        end
      end
    end
  end

  // Multiply-accumulate: operands registered, then products summed into the accumulators.
  logic signed [7:0] operand_q[LaneGroups][CiLanes][PixelLanes];
  logic signed [7:0] weight_q[CoLanes][CiLanes];
  logic operand_valid_q, operand_first_q, operand_carry_q, operand_last_q, finished_q;
  logic correlate_q, operand_correlate_q;
  logic signed [7:0] pair_q[CiLanes][PixelLanes];  // of a CORR: pixels of the oldest slot
  logic signed [31:0] acc_q[CoLanes][PixelLanes];

  always_ff @(posedge clk_i) begin
    if (issue) begin
      operand_q <= operand;
      for (int unsigned o = 0; o < CoLanes; o++) begin
        for (int unsigned j = 0; j < CiLanes; j++) weight_q[o][j] <= weight_word_i[o][j];
      end
      if (Correlator && correlate_q) begin
        for (int unsigned j = 0; j < CiLanes; j++) begin
          for (int unsigned p = 0; p < PixelLanes; p++) pair_q[j][p] <= window_q[oldest_q][p][j];
        end
      end
    end
  end

  // High bytes of 16-bit activations come first: before the low ones, what they add up to counts 256-fold.
  logic signed [31:0] carried[CoLanes][PixelLanes];
  always_comb begin
    carried = acc_q;
    if (operand_carry_q) begin
      for (int unsigned o = 0; o < CoLanes; o++) begin
        for (int unsigned p = 0; p < PixelLanes; p++) carried[o][p] = acc_q[o][p] <<< 8;
      end
    end
  end
  // A multiplier takes a weight, or in a CORR its pixel's value where the weight says so. In gates that is a multiplexer
  // before each; a simulator decides it once for a loop over pixels, of which its compiler makes vector instructions.
  logic signed [31:0] accumulated[CoLanes][PixelLanes];
  for (genvar o = 0; o < CoLanes; o++) begin : gen_accumulate
    always_comb begin
`ifdef SYNTHESIS
      for (int unsigned p = 0; p < PixelLanes; p++) begin
        accumulated[o][p] = operand_first_q ? '0 : carried[o][p];
        for (int unsigned j = 0; j < CiLanes; j++) begin
          logic signed [7:0] factor;
          factor = weight_q[o][j];
          if (Correlator && operand_correlate_q) factor = weight_q[o][j][0] ? pair_q[j][p] : 8'sd0;
          accumulated[o][p] += 32'(16'(operand_q[o/(CoLanes/LaneGroups)][j][p]) * 16'(factor));
        end
      end
`else
      if (Correlator && operand_correlate_q) begin
        /* verilator unroll_disable */
        for (int unsigned p = 0; p < PixelLanes; p++) begin
          accumulated[o][p] = operand_first_q ? '0 : carried[o][p];
          for (int unsigned j = 0; j < CiLanes; j++) begin
            accumulated[o][p] += 32'(16'(operand_q[o/(CoLanes/LaneGroups)][j][p]) *
                                     16'(weight_q[o][j][0] ? pair_q[j][p] : 8'sd0));
          end
        end
      end else begin
        /* verilator unroll_disable */
        for (int unsigned p = 0; p < PixelLanes; p++) begin
          accumulated[o][p] = operand_first_q ? '0 : carried[o][p];
          for (int unsigned j = 0; j < CiLanes; j++) begin
            accumulated[o][p] += 32'(16'(operand_q[o/(CoLanes/LaneGroups)][j][p]) * 16'(weight_q[o][j]));
          end
        end
      end
`endif
    end
  end

  always_ff @(posedge clk_i) begin
    if (operand_valid_q) acc_q <= accumulated;
  end

  // Lane groups that took different taps are summed on the way out.
  logic [1:0] groups_log2_q, operand_groups_log2_q, finished_groups_log2_q;
  logic [PixelLanes-1:0][CoLanes-1:0][31:0] grouped;
  always_comb begin
    for (int unsigned p = 0; p < PixelLanes; p++) begin
      for (int unsigned o = 0; o < CoLanes; o++) begin
        logic signed [31:0] sum;
        sum = acc_q[o][p];
        if (LaneGroups >= 2 && finished_groups_log2_q == 2'd1) sum = sum + acc_q[(o+CoLanes/2)%CoLanes][p];
        if (LaneGroups >= 4 && finished_groups_log2_q == 2'd2) begin
          sum = sum + acc_q[(o+CoLanes/4)%CoLanes][p] + acc_q[(o+CoLanes/2)%CoLanes][p] +
              acc_q[(o+3*CoLanes/4)%CoLanes][p];
        end
        grouped[p][o] = sum;
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (finished_q) psum_o <= grouped;
    if (unit_psum_i.valid) begin
      for (int unsigned j = 0; j < CiLanes; j++) begin
        psum_o[unit_psum_i.pixel][32'(unit_psum_i.word)*CiLanes+j] <= unit_psum_i.data[j];
      end
    end
  end

  assign busy_o = active_q || word_valid_q || operand_valid_q || finished_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      active_q <= 1'b0;
      step_q <= '0;
      group_q <= '0;
      word_valid_q <= 1'b0;
      first_q <= 1'b1;
      fill_slot_q <= '0;
      oldest_q <= '0;
      spoken_q <= '0;
      landed_q <= '0;
      operand_valid_q <= 1'b0;
      operand_first_q <= 1'b0;
      operand_carry_q <= 1'b0;
      operand_last_q <= 1'b0;
      finished_q <= 1'b0;
      psum_taken_q <= 1'b0;
      psum_valid_o <= 1'b0;
    end else begin
      if (row_ready_o) active_q <= row_valid_i;
      if (read) begin
        step_q <= last_step ? '0 : step_q + 16'd1;
        if (last_step) group_q <= last_group ? '0 : group_q + 16'd1;
      end
      if (read) word_valid_q <= 1'b1;
      else if (issue) word_valid_q <= 1'b0;
      if (issue) first_q <= step_word_i.last;

      spoken_q <= spoken_q + 4'(segment_granted_i) - free_now;
      landed_q <= landed_q + 4'(segment_valid_i) - free_now;
      oldest_q <= oldest_q + free_now[2:0];
      if (segment_valid_i) fill_slot_q <= fill_slot_q + 3'd1;

      operand_valid_q <= issue;
      operand_first_q <= first_q;
      operand_carry_q <= step_word_i.carry;
      operand_last_q <= issue && step_word_i.last;
      finished_q <= operand_valid_q && operand_last_q;
      psum_valid_o <= finished_q;
      if ((issue && step_word_i.last) || unit_psum_i.valid) psum_taken_q <= 1'b1;
      else if (psum_free_i) psum_taken_q <= 1'b0;
    end
  end

  always_ff @(posedge clk_i) begin
    if (row_valid_i && row_ready_o) row_q <= row_i;
    if (segment_valid_i) window_q[fill_slot_q] <= arriving;
    // The row's grouping travels with its steps: a later row may group differently while these still drain.
    if (read) groups_log2_q <= row_q.lane_groups_log2;
    if (read) correlate_q <= row_q.compute == ComputeCorr;
    operand_groups_log2_q  <= groups_log2_q;
    operand_correlate_q <= correlate_q;
    finished_groups_log2_q <= operand_groups_log2_q;
  end

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(SpokenBound, 32'(spoken_q) <= WindowSlots)
      `SCANLINE_ASSERT(LandedBound, landed_q <= spoken_q)
      `SCANLINE_ASSERT(FreedLanded, !issue || (free_now <= landed_q))
      `SCANLINE_ASSERT(SlotsInOrder, 3'(fill_slot_q - oldest_q) == landed_q[2:0])
      `SCANLINE_ASSERT(GrantHasSlot, !segment_granted_i || (32'(spoken_q) < WindowSlots))
      `SCANLINE_ASSERT(SegmentAwaited, !segment_valid_i || (landed_q < spoken_q))
      `SCANLINE_ASSERT(StepCounted, !active_q || (step_q < row_q.steps_count))
      `SCANLINE_ASSERT(GroupCounted, !active_q || (group_q < row_q.pixel_groups))
      `SCANLINE_ASSERT(StepInMemory, !read || (32'(row_q.steps_base) + 32'(step_q) < WeightWords))
      `SCANLINE_ASSERT(IssueLanded, !issue || slots_landed)
      `SCANLINE_ASSERT(LanesGrouped, !active_q || ((32'd1 << row_q.lane_groups_log2) <= LaneGroups))
      `SCANLINE_ASSERT(UnitAlone, !unit_psum_i.valid || !busy_o)
      `SCANLINE_ASSERT(UnitInSet, !unit_psum_i.valid || (32'(unit_psum_i.word) < CoLanes / CiLanes))
      `SCANLINE_ASSERT(PairsDoNotCarry, !issue || !correlate_q || !step_word_i.carry)
      `SCANLINE_ASSERT(RowIsTheArrays, !row_valid_i || !is_beside(row_i.compute))
    end
  end
`endif
endmodule
