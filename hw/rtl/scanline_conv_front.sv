// The front of the convolution engine: checks a row's tokens, claims its output row, and brings row segments into the
// window ahead of the array. It does not wait for the array to finish a row before it starts the next.
module scanline_conv_front
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    // commands
    input  logic cmd_valid_i,
    output logic cmd_ready_o,
    input  compute_cmd_t cmd_i,
    // buffers
    output logic [BufferBits-1:0] source_id_o,
    output logic [BufferBits-1:0] destination_id_o,
    output logic [BufferBits-1:0] add_id_o,
    input  buffer_view_t source_i,
    input  buffer_view_t destination_i,
    input  buffer_view_t add_i,
    output logic claim_o,
    input  logic [15:0] weights_loaded_i,
    // rows for the array and the requantiser
    output logic row_valid_o,
    input  logic row_ready_i,
    output row_t row_o,
    // a row that a unit beside the array makes is not brought to the window; where the unit does not keep it, it stays here
    output logic unit_start_o,
    output unit_row_t unit_row_o,
    input  logic unit_done_i,
    output logic beside_o,
    // source rows that this row was the last to read, unless they are freed late
    output rows_freed_t free_o,
    // fill memory
    output logic fill_read_o,
    output logic [FillAddrBits-1:0] fill_addr_o,
    input  fill_word_t fill_word_i,
    // segments: requested here, delivered by the scratchpad in the cycle after the grant
    output segment_read_t segment_o,
    input  logic segment_grant_i,
    output logic segment_x2_o,     // with the grant: the row's pixel stride is 2
    input  logic [3:0] window_free_i,  // slots that are neither filled nor spoken for
    input  logic behind_busy_i,        // rows are in the array or the requantiser
    // state, for the stall counters
    output logic busy_o,
    output wait_e wait_o
);
  typedef enum logic [2:0] {
    Idle,
    Check,
    Start,
    Fill,
    Beside,
    Finish
  } state_e;
  state_e state_q;

  compute_cmd_t cmd_q;
  row_cmd_t row;
  conv_payload_t conv;
  resize_payload_t resize;
  logic beside, streamed, resizes;
  assign row = cmd_q.row;
  assign conv = cmd_q.payload.conv;
  assign resize = cmd_q.payload.resize;
  assign beside = is_beside(cmd_q.compute);
  assign streamed = is_streamed(cmd_q.compute);
  assign resizes = cmd_q.compute == ComputeResize;
  logic free_early_q;  // the first source's rows are free when this row has been read

  // Sources are looked at one after another; in the end, freed likewise.
  localparam int unsigned SourceBits = $clog2(Sources);
  logic [SourceBits-1:0] which_q;
  logic [Sources-1:0][BufferBits-1:0] source_ids;
  logic [Sources-1:0] source_frees;
  logic signed [Sources-1:0][7:0] source_deltas;
  logic last_source;
  always_comb begin
    for (int unsigned k = 0; k < Sources; k++) source_ids[k] = BufferBits'(row.sources.source[k]);
  end
  assign source_frees = {row.sources.free, free_early_q && !streamed};
  assign source_deltas = {row.sources.x_delta, 8'd0};
  assign last_source = which_q == SourceBits'(row.sources.more_sources);
  assign source_id_o = source_ids[which_q];
  assign destination_id_o = BufferBits'(row.destination);
  assign add_id_o = BufferBits'(row.operand.buf_id);

  // What the next output row needs. y is the row, top its first input row (may be above the frame).
  logic [15:0] y;
  logic [2:0] stride;
  logic signed [19:0] top, next_top, rows_needed, source_height;
  logic source_ready, source_computed, add_ready, space_ready, weights_ready, finished;
  assign y = destination_i.next_row;
  always_comb begin
    // y times the stride by shifts and additions: three bits are not worth a multiplier.
    stride = beside ? 3'd1 : conv.stride_rows;
    top = -20'(row.sources.pad_rows);
    for (int unsigned bit_ = 0; bit_ < $bits(stride); bit_++) begin
      if (stride[bit_]) top = top + (20'(y) << bit_);
    end
    next_top = top + signed'({17'b0, stride});
    if (resizes) begin
      top = signed'(20'(y >> resize.enlarge_log2)) - 20'(row.sources.pad_rows);
      next_top = signed'(20'((20'(y) + 20'd1) >> resize.enlarge_log2)) - 20'(row.sources.pad_rows);
    end
  end
  assign source_height = signed'({4'b0, source_i.cfg.height});
  always_comb begin
    rows_needed = top + signed'(20'(row.sources.kernel_rows));
    if (rows_needed > source_height) rows_needed = source_height;
  end
  assign finished = y >= destination_i.cfg.height;
  assign source_ready = signed'({4'b0, source_i.done}) >= rows_needed;
  assign source_computed = signed'({4'b0, source_i.computed}) >= rows_needed;  // then it is the halo that is missing
  assign add_ready = !row.operand.enable || (add_i.done > y);
  assign space_ready = 16'(y - destination_i.freed) < destination_i.cfg.rows;
  assign weights_ready = weights_loaded_i >= row.weights_needed;

  always_comb begin
    wait_o = WaitNone;
    if (state_q == Check && !finished) begin
      if (!weights_ready) wait_o = WaitWeights;
      else if (!source_ready) wait_o = (source_i.cfg.loaded || source_computed) ? WaitLoad : WaitDrain;
      else if (!last_source) wait_o = WaitNone;
      else if (!add_ready) wait_o = (add_i.cfg.loaded || (add_i.computed > y)) ? WaitLoad : WaitDrain;
      else if (!space_ready) wait_o = destination_i.cfg.freed_by_store ? WaitStore : WaitDrain;
    end
  end

  logic [15:0] computed_width;
  assign computed_width = destination_i.cfg.width - (16'(destination_i.cfg.halo) << BankBits);

  // Row state.
  logic signed [19:0] top_q, source_height_q;
  reading_t reading_q[Sources];
  row_t row_q;
  assign row_o = row_q;
  assign row_valid_o = state_q == Start;
  assign claim_o = (state_q == Start) && row_ready_i;
  assign unit_start_o = claim_o && beside;
  assign beside_o = state_q == Beside;

  // For a unit beside the array.
  logic signed [19:0] end_row;
  logic [15:0] y_q;
  assign end_row = top_q + signed'(20'(row.sources.kernel_rows));
  always_comb begin
    unit_row_o.compute = cmd_q.compute;
    unit_row_o.payload = cmd_q.payload;
    unit_row_o.y = y_q;
    unit_row_o.pixel_groups = row_q.pixel_groups;
    unit_row_o.width = row_q.width;
    unit_row_o.words = row_q.words;
    unit_row_o.x_offset = row.sources.x_offset;
    unit_row_o.height = source_height_q[15:0];
    unit_row_o.first_row = (top_q < 0) ? '0 : top_q[15:0];
    unit_row_o.end_row = (end_row > source_height_q) ? source_height_q[15:0] : end_row[15:0];
    unit_row_o.source = reading_q[0];
    unit_row_o.free_source = free_early_q;
    unit_row_o.source_id = row_q.source;
    unit_row_o.free_source_to = row_q.free_source_to;
    unit_row_o.operand_address = row_q.add_row_address;
    unit_row_o.operand_x = row_q.operand.x_offset;
    unit_row_o.operand_width = row_q.add_width;
  end

  logic signed [19:0] freed_to;
  always_comb begin
    // The next output row's top; after the last output row everything.
    freed_to = next_top;
    if (freed_to < 0) freed_to = '0;
    if ((freed_to > source_height) || (y + 16'd1 == destination_i.cfg.height)) freed_to = source_height;
  end

  // Walk: pixel group, pass, fill word. Three stages: fill word read, address, request.
  logic [15:0] group_q;
  logic [11:0] fill_q, pass_q;
  logic walk_last_fill, walk_last_pass, walk_last_group;
  assign walk_last_fill  = fill_q + 12'd1 == conv.fills_count;
  assign walk_last_pass  = pass_q + 12'd1 == conv.fills_repeat;
  assign walk_last_group = group_q + 16'd1 == row_q.pixel_groups;

  logic walk_q;                            // stage 0 has a fill word to read
  logic word_valid_q, request_valid_q;     // stages 1 and 2 hold something
  logic signed [17:0] word_x_q;
  segment_request_t request_q;
  logic request_advance, word_advance;
  assign request_advance = !request_valid_q || segment_grant_i;
  assign word_advance = !word_valid_q || request_advance;

  assign fill_read_o = (state_q == Fill) && walk_q && word_advance;
  assign fill_addr_o = FillAddrBits'(conv.fills_base + 16'(fill_q));

  // Rows are free when they have been read. Those that must be freed late are so with the last value of this row, or,
  // as a further source, when nothing is under way.
  logic requested, may_free;
  assign requested = !word_valid_q && !request_valid_q;
  assign may_free = (which_q == '0) || !source_frees[which_q] || !source_i.free_late || !behind_busy_i;
  assign free_o.valid = (state_q == Finish) && requested && may_free && source_frees[which_q];
  assign free_o.id = source_id_o;
  assign free_o.to = row_q.free_source_to;

  // Stage 1: where the segment is.
  logic signed [19:0] word_row;
  logic [15:0] word_slot;
  reading_t reading;
  segment_request_t word_request;
  always_comb begin
    word_row = top_q + signed'(20'(fill_word_i.row));
    if (conv.edge_pixels && (word_row < 0)) word_row = '0;
    if (conv.edge_pixels && (word_row >= source_height_q)) word_row = source_height_q - 20'sd1;
    reading = reading_q[(32'(fill_word_i.source)<Sources)?SourceBits'(fill_word_i.source):'0];
    word_slot = slot_of(word_row[15:0], reading.next_row, reading.next_slot, reading.rows);
    word_request.row_valid = (word_row >= 0) && (word_row < source_height_q);
    word_request.address = reading.base + 16'(word_slot * reading.row_pitch) +
        16'(16'(fill_word_i.group) * reading.group_pitch);
    word_request.x = word_x_q + 18'(fill_word_i.column) + 18'(reading.x_delta);
    // Beyond the last pixel there is only that one.
    if (conv.edge_pixels && (word_request.x >= signed'({2'b0, reading.width}))) begin
      word_request.x = signed'({2'b0, reading.width}) - 18'sd1;
    end
    word_request.edge_pixels = conv.edge_pixels;
    word_request.width = segment_end(word_request.x, segment_x2_o ? 18'(2 * PixelLanes) : 18'(SegmentPixels),
                                     reading.width);
    word_request.zero_point = reading.zero_point;
  end

  // A request goes out only when the window has a slot for it.
  assign segment_o.valid = request_valid_q && (window_free_i != '0);
  assign segment_o.at = request_q;
  assign segment_x2_o = conv.x_stride == 2'd2;

  logic [17:0] group_step;
  assign group_step = segment_x2_o ? 18'(2 * PixelLanes) : 18'(PixelLanes);
  logic signed [17:0] group_x_q;

  assign cmd_ready_o = state_q == Idle;
  assign busy_o = state_q != Idle;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      state_q <= Idle;
      walk_q <= 1'b0;
      word_valid_q <= 1'b0;
      request_valid_q <= 1'b0;
      group_q <= '0;
      fill_q <= '0;
      pass_q <= '0;
      which_q <= '0;
    end else begin
      unique case (state_q)
        Idle: begin
          which_q <= '0;
          if (cmd_valid_i) state_q <= Check;
        end
        Check:
        if (finished) state_q <= Idle;
        else if (weights_ready && source_ready) begin
          if (!last_source) which_q <= which_q + 1'b1;
          else if (add_ready && space_ready) state_q <= Start;
        end
        Start:
        if (row_ready_i) begin
          state_q <= streamed ? Finish : beside ? Beside : Fill;
          walk_q  <= !beside;
          which_q <= '0;
        end
        Beside: if (unit_done_i) state_q <= Finish;
        Fill: begin
          if (fill_read_o) begin
            fill_q <= walk_last_fill ? '0 : fill_q + 12'd1;
            if (walk_last_fill) begin
              pass_q <= walk_last_pass ? '0 : pass_q + 12'd1;
              if (walk_last_pass) begin
                group_q <= walk_last_group ? '0 : group_q + 16'd1;
                if (walk_last_group) begin
                  walk_q  <= 1'b0;
                  state_q <= Finish;
                end
              end
            end
          end
        end
        // The last requests leave before another row may change what they refer to.
        Finish:
        if (requested && may_free) begin
          which_q <= which_q + 1'b1;
          if (last_source) state_q <= Idle;
        end
        default: state_q <= Idle;
      endcase
      if (word_advance) word_valid_q <= fill_read_o;
      if (request_advance) request_valid_q <= word_valid_q;
    end
  end

  always_ff @(posedge clk_i) begin
    if (cmd_ready_o && cmd_valid_i) begin
      cmd_q <= cmd_i;
    end
    if (state_q == Check) begin
      top_q <= top;
      y_q <= y;
      reading_q[which_q].next_row <= source_i.next_row;
      reading_q[which_q].next_slot <= source_i.next_slot;
      reading_q[which_q].base <= source_i.cfg.base;
      reading_q[which_q].rows <= source_i.cfg.rows;
      reading_q[which_q].row_pitch <= source_i.cfg.row_pitch;
      reading_q[which_q].group_pitch <= source_i.cfg.group_pitch;
      reading_q[which_q].width <= source_i.cfg.width;
      reading_q[which_q].zero_point <= source_i.cfg.zero_point;
      reading_q[which_q].x_delta <= source_deltas[which_q];
      group_x_q <= 18'(row.sources.x_offset);
      row_q.destination <= destination_id_o;
      row_q.source <= source_ids[0];
      row_q.pixel_groups <= 16'((17'(computed_width) + 17'(PixelLanes - 1)) / 17'(PixelLanes));
      row_q.steps_base <= WeightAddrBits'(conv.steps_base);
      row_q.steps_count <= conv.steps_count;
      row_q.lane_groups_log2 <= beside ? '0 : conv.lane_groups_log2;
      row_q.compute <= cmd_q.compute;
      row_q.words <= row.words;
      row_q.parameters_base <= ParameterAddrBits'(row.parameters_base);
      row_q.epilogue <= row.epilogue;
      row_q.row_address <= destination_i.cfg.base + 16'(destination_i.next_slot * destination_i.cfg.row_pitch) +
          16'(16'(row.group) * destination_i.cfg.group_pitch) + 16'(destination_i.cfg.halo);
      row_q.group_pitch <= destination_i.cfg.group_pitch;
      row_q.width <= computed_width;
      if (which_q == '0) begin
        row_q.free_source <= row.sources.free_source && source_i.free_late;
        free_early_q <= row.sources.free_source && !source_i.free_late;
        source_height_q <= source_height;
      end
      row_q.free_source_to <= freed_to[15:0];
      row_q.operand <= row.operand;
      row_q.operand.enable <= row.operand.enable && !beside;  // a WARP's flow goes to the sampler
      row_q.operand.free <= row.operand.enable && row.operand.free;
      row_q.merge <= row.merge;
      row_q.add_free_to <= y + 16'd1;
      row_q.add_row_address <= add_i.cfg.base +
          16'(slot_of(y, add_i.next_row, add_i.next_slot, add_i.cfg.rows) * add_i.cfg.row_pitch);
      row_q.add_group_pitch <= add_i.cfg.group_pitch;
      row_q.add_width <= add_i.cfg.width;
      row_q.add_operand_zero_point <= add_i.cfg.zero_point;
    end
    if (fill_read_o) begin
      word_x_q <= group_x_q;
      if (walk_last_fill && walk_last_pass) group_x_q <= group_x_q + signed'(group_step);
    end
    if (request_advance && word_valid_q) request_q <= word_request;
  end

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  `SCANLINE_HANDSHAKE(Row, row_valid_o, row_ready_i, row_o, 1'b0)
  `SCANLINE_HANDSHAKE(Segment, segment_o.valid, segment_grant_i, segment_o, 1'b0)
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(StateKnown, state_q <= Finish)
      `SCANLINE_ASSERT(SourceNumber, (state_q == Idle) || (32'(which_q) < Sources))
      `SCANLINE_ASSERT(WindowHasRoom, !segment_grant_i || (window_free_i != '0))
      `SCANLINE_ASSERT(SpaceClaimed, !claim_o ||
          (16'(destination_i.next_row - destination_i.freed) < destination_i.cfg.rows))
      `SCANLINE_ASSERT(RowNotEmpty, !row_valid_o || ((row_o.pixel_groups != '0) && (row_o.words != '0)))
      `SCANLINE_ASSERT(FillInMemory, !fill_read_o || (32'(conv.fills_base) + 32'(fill_q) < FillWords))
      `SCANLINE_ASSERT(FillCounted, (state_q != Fill) || (fill_q < conv.fills_count))
      `SCANLINE_ASSERT(PassCounted, (state_q != Fill) || (pass_q < conv.fills_repeat))
      `SCANLINE_ASSERT(GroupCounted, (state_q != Fill) || (group_q < row_q.pixel_groups))
      `SCANLINE_ASSERT(FillNamesSource, !word_valid_q || (fill_word_i.source <= row.sources.more_sources))
      `SCANLINE_ASSERT(RowOnChip, !word_valid_q || !word_request.row_valid ||
          (16'(reading.next_row - word_row[15:0]) <= reading.rows))
      `SCANLINE_ASSERT(FreedInFrame, !free_o.valid || (signed'({4'b0, free_o.to}) <= source_height_q))
      `SCANLINE_ASSERT(UnitAwaited, !unit_done_i || (state_q == Beside))
    end
  end
`endif
endmodule
