// The back of the convolution engine: psums to int8 (numerics.requantise), look-up, second operand, and the write of
// aligned pixels to the scratchpad. It reports rows finished and rows freed when their last value is written.
module scanline_requantiser
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    input  logic row_valid_i,
    output logic row_ready_o,
    input  row_t row_i,
    // psums
    input  logic psum_valid_i,
    output logic psum_held_o,   // psums are here, or arrive
    output logic psum_free_o,   // psums that come three cycles later find their place empty
    input  logic [PixelLanes-1:0][CoLanes-1:0][31:0] psum_i,
    // or, for a row of which a unit beside the array hands them over so, chunk by chunk
    input  psum_chunk_t chunk_i,
    output logic chunk_taken_o,
    // parameters of CiLanes channels, one cycle after the read
    output logic parameter_read_o,
    output logic [ParameterAddrBits-1:0] parameter_addr_o,
    input  parameter_t [CiLanes-1:0] parameter_i,
    // look-up tables, one per lane, one cycle after the read
    output logic table_read_o,
    output logic [RequantPixels*CiLanes-1:0][TableBits+7:0] table_addr_o,
    input  logic [RequantPixels*CiLanes-1:0][7:0] table_data_i,
    // the second operand, from the scratchpad
    output segment_read_t segment_o,
    input  logic segment_grant_i,
    input  segment_data_t segment_data_i,
    // result
    output drain_write_t write_o,
    // tokens
    output row_done_t done_o,
    output rows_freed_t free_source_o,
    output rows_freed_t free_add_o,
    output logic busy_o,
    output logic [15:0] values_o  // requantised in this cycle
);
  localparam int unsigned JoinBits = 50;  // two 9-bit differences and a 32-bit multiplier
  localparam int unsigned ChunkBits = (RequantChunks > 1) ? $clog2(RequantChunks) : 1;

  // What the pipeline must remember of a chunk's row.
  typedef struct packed {
    epilogue_t epilogue;
    logic add_enable;
    merge_t merge;
    logic signed [7:0] add_operand_zero_point;
    logic [15:0] address;
    logic [15:0] x;
    logic [RequantPixels-1:0] mask;
    logic last;
    logic [BufferBits-1:0] destination;
    logic free_source;
    logic [BufferBits-1:0] source;
    logic [15:0] free_source_to;
    logic add_free;
    logic [BufferBits-1:0] add_buffer;
    logic [15:0] add_free_to;
  } meta_t;

  // Walk: pixel group, word, chunk.
  row_t row_q;
  logic active_q, psum_held_q, psum_let_go_q, parameter_valid_q;
  logic [15:0] group_q;
  logic [11:0] word_q, cog_word_q;
  logic [ChunkBits-1:0] chunk_q;
  logic issue, streamed, last_chunk, last_word, last_of_cog, last_group;
  assign streamed = is_streamed(row_q.compute);
  logic [11:0] words_per_cog;
  always_comb begin
    words_per_cog = 12'(CoLanes / CiLanes) >> row_q.lane_groups_log2;
    if (words_per_cog == '0) words_per_cog = 12'd1;
  end
  assign last_chunk = (RequantChunks == 1) || (chunk_q == ChunkBits'(RequantChunks - 1));
  assign last_word = word_q + 12'd1 == row_q.words;
  assign last_of_cog = last_word || (cog_word_q + 12'd1 == words_per_cog);
  assign last_group = group_q + 16'd1 == row_q.pixel_groups;
  logic add_valid;
  assign issue = active_q && (streamed ? chunk_i.valid : psum_held_q || psum_valid_i) && parameter_valid_q &&
      (add_valid || !row_q.operand.enable);
  assign chunk_taken_o = issue && streamed;

  // New psums arrive three cycles after they are asked for, so the array may finish its next set while the last three
  // chunks of this one leave. They leave one a cycle, unless a word among them still waits for its second operand.
  assign psum_held_o = psum_held_q || psum_valid_i;
  logic [11:0] words_left, chunks_left;
  logic psum_ends;
  assign words_left = (word_q + words_per_cog - cog_word_q > row_q.words) ? row_q.words - word_q - 12'd1
                                                                         : words_per_cog - cog_word_q - 12'd1;
  assign chunks_left = 12'(32'(words_left) * RequantChunks + (RequantChunks - 1 - 32'(chunk_q)));
  assign psum_ends = issue && !streamed && last_chunk && last_of_cog;
  assign psum_free_o = issue && !streamed && !psum_let_go_q && (chunks_left <= 12'd2) && (!row_q.operand.enable || last_of_cog);
  assign row_ready_o = !active_q || (issue && last_chunk && last_word && last_group);

  // Parameters of the next word are read while the last chunk of this one leaves.
  logic word_ends, row_ends;
  assign word_ends = issue && last_chunk;
  assign row_ends = word_ends && last_word && last_group;
  assign parameter_read_o = active_q && !row_ends && (!parameter_valid_q || word_ends);
  assign parameter_addr_o = row_q.parameters_base +
      (word_ends ? (last_word ? '0 : ParameterAddrBits'(word_q + 12'd1)) : ParameterAddrBits'(word_q));

  // Second operands are fetched ahead: two words wait here.
  logic [15:0] group_x, add_group_q, add_group_x;
  logic [11:0] add_word_q;
  logic add_more_q, add_pending_q, add_head_q, add_tail_q, add_last_word, add_last_group, add_pop;
  logic [1:0] add_count_q;
  assign group_x = group_q * 16'(PixelLanes);
  assign add_group_x = add_group_q * 16'(PixelLanes);
  assign add_last_word = add_word_q + 12'd1 == row_q.words;
  assign add_last_group = add_group_q + 16'd1 == row_q.pixel_groups;
  assign add_valid = add_count_q != '0;
  assign add_pop = word_ends && row_q.operand.enable;
  assign segment_o.valid = active_q && row_q.operand.enable && add_more_q && (add_count_q + 2'(add_pending_q) < 2'd2);
  always_comb begin
    segment_o.at.address = row_q.add_row_address +
        (row_q.operand.broadcast ? '0 : 16'(16'(add_word_q) * row_q.add_group_pitch));
    segment_o.at.x = signed'({2'b0, add_group_x}) + 18'(row_q.operand.x_offset);
    segment_o.at.width = segment_end(segment_o.at.x, 18'(PixelLanes), row_q.add_width);
    segment_o.at.row_valid = 1'b1;
    segment_o.at.edge_pixels = 1'b0;
    segment_o.at.zero_point = row_q.add_operand_zero_point;
  end
  logic [PixelLanes-1:0][CiLanes-1:0][7:0] add_q[2], add_arriving;
  always_comb begin
    for (int unsigned p = 0; p < PixelLanes; p++) begin
      logic [CiLanes-1:0][7:0] word;
      word = segment_data_i[p];
      for (int unsigned j = 0; j < CiLanes; j++) begin
        add_arriving[p][j] = row_q.operand.broadcast ? word[row_q.operand.channel[$clog2(CiLanes)-1:0]] : word[j];
      end
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      active_q <= 1'b0;
      psum_held_q <= 1'b0;
      psum_let_go_q <= 1'b0;
      parameter_valid_q <= 1'b0;
      add_more_q <= 1'b0;
      add_pending_q <= 1'b0;
      add_head_q <= 1'b0;
      add_tail_q <= 1'b0;
      add_count_q <= '0;
      add_group_q <= '0;
      add_word_q <= '0;
      group_q <= '0;
      word_q <= '0;
      cog_word_q <= '0;
      chunk_q <= '0;
    end else begin
      if (row_ready_o) active_q <= row_valid_i;
      if (psum_ends) psum_held_q <= 1'b0;
      else if (psum_valid_i) psum_held_q <= 1'b1;
      if (psum_ends) psum_let_go_q <= 1'b0;
      else if (psum_free_o) psum_let_go_q <= 1'b1;
      if (parameter_read_o) parameter_valid_q <= 1'b1;
      else if (row_ends) parameter_valid_q <= 1'b0;
      add_pending_q <= segment_grant_i;
      add_count_q <= add_count_q + 2'(add_pending_q) - 2'(add_pop);
      if (add_pending_q) add_tail_q <= !add_tail_q;
      if (add_pop) add_head_q <= !add_head_q;
      if (row_ready_o) add_more_q <= row_valid_i;
      if (segment_grant_i) begin
        add_word_q <= add_last_word ? '0 : add_word_q + 12'd1;
        if (add_last_word) begin
          add_group_q <= add_last_group ? '0 : add_group_q + 16'd1;
          if (add_last_group) add_more_q <= 1'b0;
        end
      end
      if (issue) begin
        chunk_q <= last_chunk ? '0 : chunk_q + 1'b1;
        if (last_chunk) begin
          word_q <= last_word ? '0 : word_q + 12'd1;
          cog_word_q <= last_of_cog ? '0 : cog_word_q + 12'd1;
          if (last_word) group_q <= last_group ? '0 : group_q + 16'd1;
        end
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (row_ready_o && row_valid_i) row_q <= row_i;
    if (add_pending_q) add_q[add_tail_q] <= add_arriving;
  end

  // Stage 0: a chunk of RequantPixels x CiLanes psums with its parameters.
  logic [6:0] valid_q;
  meta_t meta_q[7];
  logic signed [31:0] psum0_q[RequantPixels][CiLanes];
  parameter_t [CiLanes-1:0] parameter0_q;
  logic signed [7:0] add0_q[RequantPixels][CiLanes];
  meta_t meta_now;
  logic [15:0] chunk_x;
  assign chunk_x = group_x + 16'(chunk_q) * 16'(RequantPixels);
  always_comb begin
    meta_now.epilogue = row_q.epilogue;
    meta_now.add_enable = row_q.operand.enable;
    meta_now.merge = row_q.merge;
    meta_now.add_operand_zero_point = row_q.add_operand_zero_point;
    meta_now.address = row_q.row_address + 16'(16'(word_q) * row_q.group_pitch);
    meta_now.x = chunk_x;
    for (int unsigned p = 0; p < RequantPixels; p++) meta_now.mask[p] = 17'(chunk_x) + 17'(p) < 17'(row_q.width);
    meta_now.last = row_ends;
    meta_now.destination = row_q.destination;
    meta_now.free_source = row_q.free_source;
    meta_now.source = row_q.source;
    meta_now.free_source_to = row_q.free_source_to;
    meta_now.add_free = row_q.operand.free;
    meta_now.add_buffer = BufferBits'(row_q.operand.buf_id);
    meta_now.add_free_to = row_q.add_free_to;
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) valid_q <= '0;
    else valid_q <= {valid_q[5:0], issue};
  end
  always_ff @(posedge clk_i) begin
    if (issue) meta_q[0] <= meta_now;
    for (int unsigned s = 1; s < 7; s++) if (valid_q[s-1]) meta_q[s] <= meta_q[s-1];
  end
  always_ff @(posedge clk_i) begin
    if (issue) begin
      parameter0_q <= parameter_i;
      for (int unsigned p = 0; p < RequantPixels; p++) begin
        for (int unsigned j = 0; j < CiLanes; j++) begin
          psum0_q[p][j] <= streamed ? chunk_i.data[p][j]
                                    : psum_i[32'(chunk_q)*RequantPixels+p][32'(cog_word_q)*CiLanes+j];
          add0_q[p][j] <= add_q[add_head_q][32'(chunk_q)*RequantPixels+p][j];
        end
      end
    end
  end

  // Stages 1 to 6, lane by lane: bias and factor; product; rounding; clamp and look-up; second operand; its rounding.
  // The operand's own share is worked out while the value is looked up: a sum adds it, a product multiplies by it.
  logic signed [7:0] result[RequantPixels][CiLanes];
  assign table_read_o = valid_q[3] && meta_q[3].epilogue.table_enable;
  for (genvar p = 0; p < RequantPixels; p++) begin : gen_pixel
    for (genvar j = 0; j < CiLanes; j++) begin : gen_channel
      logic signed [31:0] biased, biased_q, factor_q;
      logic [5:0] shift1_q, shift2_q;
      logic [1:0] plane1_q, plane2_q, plane3_q;
      logic signed [15:0] wide;
      logic signed [63:0] product_q, rounded, rounded_q, shifted;
      logic signed [7:0] clamped, clamped_q, looked_up;
      logic signed [7:0] add1_q, add2_q, add3_q;
      logic signed [40:0] share_q;
      logic signed [JoinBits-1:0] joined, joined_q, joined_rounded, joined_shifted;
      logic signed [7:0] plain5_q;

      assign biased = psum0_q[p][j] + parameter0_q[j].bias;
      scanline_round_shift #(.Width(64)) u_round (.product_i(product_q), .shift_i(shift2_q), .rounded_o(rounded));
      scanline_round_shift #(.Width(JoinBits)) u_round_joined (.product_i(joined_q), .shift_i(meta_q[5].merge.shift),
          .rounded_o(joined_rounded));

      always_comb begin
        shifted = rounded_q + 64'(meta_q[3].epilogue.zero_point);
        clamped = shifted[7:0];
        if (shifted < 64'(meta_q[3].epilogue.qmin)) clamped = meta_q[3].epilogue.qmin;
        if (shifted > 64'(meta_q[3].epilogue.qmax)) clamped = meta_q[3].epilogue.qmax;
        // numerics.byte_planes of 16 bits
        wide = rounded_q[15:0];
        if (rounded_q < -64'sd32768) wide = -16'sd32768;
        if (rounded_q > 64'sd32639) wide = 16'sd32639;
        if (plane3_q == PlaneHigh) clamped = wide[15:8] + 8'(wide[7]);
        if (plane3_q == PlaneLow) clamped = wide[7:0];
        table_addr_o[p*CiLanes+j] = {TableBits'(meta_q[3].epilogue.lut), clamped ^ 8'h80};
        looked_up = meta_q[4].epilogue.table_enable ? table_data_i[p*CiLanes+j] : clamped_q;
        joined = JoinBits'(9'(looked_up) - 9'(meta_q[4].merge.value_zero_point)) *
            JoinBits'(meta_q[4].merge.product ? share_q : 41'(meta_q[4].merge.multiplier));
        if (!meta_q[4].merge.product) joined = joined + JoinBits'(share_q);
        joined_shifted = joined_rounded + JoinBits'(meta_q[5].merge.zero_point);
        result[p][j] = joined_shifted[7:0];
        if (joined_shifted < JoinBits'(meta_q[5].merge.qmin)) result[p][j] = meta_q[5].merge.qmin;
        if (joined_shifted > JoinBits'(meta_q[5].merge.qmax)) result[p][j] = meta_q[5].merge.qmax;
        if (!meta_q[5].add_enable) result[p][j] = plain5_q;
      end

      always_ff @(posedge clk_i) begin
        if (valid_q[0]) begin
          biased_q <= biased;
          factor_q <= biased[31] ? parameter0_q[j].negative_multiplier : parameter0_q[j].multiplier;
          shift1_q <= parameter0_q[j].shift;
          plane1_q <= parameter0_q[j].plane;
          add1_q   <= add0_q[p][j];
        end
        if (valid_q[1]) begin
          product_q <= 64'(biased_q) * 64'(factor_q);
          shift2_q  <= shift1_q;
          plane2_q  <= plane1_q;
          add2_q    <= add1_q;
        end
        if (valid_q[2]) begin
          rounded_q <= rounded;
          plane3_q  <= plane2_q;
          add3_q    <= add2_q;
        end
        if (valid_q[3]) begin
          clamped_q <= clamped;
          share_q   <= 41'(9'(add3_q) - 9'(meta_q[3].add_operand_zero_point)) * 41'(meta_q[3].merge.other_multiplier);
        end
        if (valid_q[4]) begin
          joined_q <= joined;
          plain5_q <= looked_up;
        end
      end
    end
  end

  logic [RequantPixels-1:0][WordBits-1:0] data_q;
  always_ff @(posedge clk_i) begin
    if (valid_q[5]) begin
      for (int unsigned p = 0; p < RequantPixels; p++) begin
        for (int unsigned j = 0; j < CiLanes; j++) data_q[p][8*j+:8] <= result[p][j];
      end
    end
  end

  // Stage 6: write, and tell.
  assign write_o.valid = valid_q[6];
  assign write_o.address = meta_q[6].address;
  assign write_o.x = meta_q[6].x;
  assign write_o.data = data_q;
  assign write_o.mask = meta_q[6].mask;
  assign done_o.valid = valid_q[6] && meta_q[6].last;
  assign done_o.id = meta_q[6].destination;
  assign free_source_o.valid = done_o.valid && meta_q[6].free_source;
  assign free_source_o.id = meta_q[6].source;
  assign free_source_o.to = meta_q[6].free_source_to;
  assign free_add_o.valid = done_o.valid && meta_q[6].add_free;
  assign free_add_o.id = meta_q[6].add_buffer;
  assign free_add_o.to = meta_q[6].add_free_to;
  assign busy_o = active_q || (valid_q != '0);
  assign values_o = valid_q[6] ? 16'($countones(meta_q[6].mask)) * 16'(CiLanes) : '0;

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  `SCANLINE_HANDSHAKE(Segment, segment_o.valid, segment_grant_i, segment_o, 1'b0)
  `SCANLINE_HANDSHAKE(Chunk, chunk_i.valid, chunk_taken_o, chunk_i, 1'b0)
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(PsumsNotOverrun, !psum_valid_i || !psum_held_q || psum_ends)
      `SCANLINE_ASSERT(PsumsAwaited, !psum_valid_i || active_q || row_valid_i)
      `SCANLINE_ASSERT(OperandBound, add_count_q <= 2'd2)
      `SCANLINE_ASSERT(OperandFits, !add_pending_q || (add_count_q != 2'd2) || add_pop)
      `SCANLINE_ASSERT(OperandThere, !add_pop || add_valid)
      `SCANLINE_ASSERT(OperandsInOrder, 1'(add_tail_q - add_head_q) == add_count_q[0])
      `SCANLINE_ASSERT(WordCounted, !active_q || (word_q < row_q.words))
      `SCANLINE_ASSERT(GroupCounted, !active_q || (group_q < row_q.pixel_groups))
      `SCANLINE_ASSERT(WordInSet, !active_q || (cog_word_q < words_per_cog))
      `SCANLINE_ASSERT(ParametersInMemory, !parameter_read_o || (32'(parameter_addr_o) < ParameterWords))
      `SCANLINE_ASSERT(IssueHasParameters, !issue || parameter_valid_q)
      `SCANLINE_ASSERT(LetGoHeld, !psum_free_o || psum_held_o)
      `SCANLINE_ASSERT(FreesWithTheRow, !(free_source_o.valid || free_add_o.valid) || done_o.valid)
      `SCANLINE_ASSERT(PixelsInOrder, !write_o.valid || (32'(write_o.x) % RequantPixels == 0))
    end
  end
`endif
endmodule
