// LOAD and LOADW: one side requests bursts ahead, the other unpacks bytes into scratchpad words or on-chip tables.
module scanline_load_engine
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    input  logic stop_i,
    input  logic [31:0] memory_bytes_i,
    // commands; is_weights tells LOADW from LOAD
    input  logic cmd_valid_i,
    output logic cmd_ready_o,
    input  logic cmd_is_weights_i,
    input  load_cmd_t cmd_load_i,
    input  loadw_cmd_t cmd_weights_i,
    // buffers
    output logic [BufferBits-1:0] buffer_id_o,
    input  buffer_view_t buffer_i,
    output logic claim_o,
    output row_done_t done_o,
    // bus reads
    output burst_t read_o,
    input  logic read_ready_i,
    input  read_beat_t beat_i,
    // scratchpad
    output word_write_t write_o,
    input  logic write_grant_i,
    // tables: one element a cycle, as long as they are taken
    output element_t element_o,
    input  logic element_ready_i,
    output logic weights_done_o,
    // state
    output window_error_t window_error_o,
    output load_activity_t activity_o
);
  localparam int unsigned WeightParts = WeightWordBits / BusBits;
  localparam int unsigned CreditBits = $clog2(LoadFifoBeats) + 1;

  // What the unpacking side needs of one LOADW or one LOAD row.
  typedef struct packed {
    logic is_weights;
    logic [2:0] kind;
    logic [3:0] lut;
    logic [15:0] destination;
    logic [15:0] gap;
    logic [23:0] elements;
    logic [BufferBits-1:0] buf_id;
    logic [15:0] row_address;
    logic [15:0] group_pitch;
    logic [15:0] x_first;            // pixels [x_first, x_end) of the row are written
    logic [15:0] x_end;
    logic [15:0] pixel_bytes;
    logic [15:0] pixel_pitch;
    logic signed [31:0] first;       // index in the row of the first byte of the first pixel
    logic signed [31:0] row_bytes;
    logic [7:0] zero_point;
    logic signed [15:0] offset;      // of `first` from the first requested beat
    logic [31:0] beats;
  } job_t;

  // Requesting side ---------------------------------------------------------------------------------------------------
  typedef enum logic [2:0] {
    Idle,
    Check,
    Multiply,
    Range,
    Issue,
    Request
  } state_e;
  state_e state_q;
  logic is_weights_q;
  load_cmd_t load_q;
  loadw_cmd_t weights_q;
  job_t job_q;
  logic job_ready;
  logic [31:0] row_start_q, first_byte_q, end_byte_q;  // offsets in memory
  logic signed [32:0] span_q;
  logic [31:0] next_q, end_q;
  logic [CreditBits-1:0] credits_q;

  assign buffer_id_o = BufferBits'(load_q.buf_id);
  assign cmd_ready_o = state_q == Idle;
  logic skip_row, space;
  assign skip_row = buffer_i.next_row >= buffer_i.cfg.height;
  assign space = 16'(buffer_i.next_row - buffer_i.freed) < buffer_i.cfg.rows;
  assign claim_o = (state_q == Issue) && job_ready && !is_weights_q;
  assign activity_o.wait_store = (state_q == Check) && !is_weights_q && !skip_row && !space && buffer_i.cfg.freed_by_store;

  // Bytes wanted of a row: from the first pixel to the last, as far as they exist.
  logic signed [32:0] wanted_first, wanted_end;
  always_comb begin
    wanted_first = 33'(load_q.skip);
    wanted_end = span_q;
    if (wanted_first < 0) wanted_first = '0;
    if (wanted_end > signed'({1'b0, load_q.row_bytes})) wanted_end = signed'({1'b0, load_q.row_bytes});
    if (wanted_end < wanted_first) wanted_end = wanted_first;
  end

  logic window_bad;
  assign window_bad = (end_byte_q > memory_bytes_i) || (first_byte_q > end_byte_q);
  assign window_error_o.valid = (state_q == Issue) && window_bad;
  assign window_error_o.address = first_byte_q;

  logic [31:0] burst_end, burst_beats;
  always_comb begin
    burst_end = ((next_q >> BurstShift) + 32'd1) << BurstShift;
    if (burst_end > end_q) burst_end = end_q;
    burst_beats = (burst_end - next_q) >> BusShift;
  end
  assign read_o.valid = (state_q == Request) && (next_q != end_q) && (32'(credits_q) >= burst_beats) && !stop_i;
  assign read_o.offset = next_q;
  assign read_o.len = 8'(burst_beats - 32'd1);

  // Beats fetched --------------------------------------------------------------------------------------------------
  logic fifo_valid, fifo_pop, fifo_ready;
  logic [BusBits-1:0] fifo_data;
  logic [CreditBits-1:0] fifo_count;
  scanline_stream_fifo #(
      .Width(BusBits),
      .Depth(LoadFifoBeats)
  ) u_fifo (
      .clk_i,
      .rst_ni,
      .valid_i(beat_i.valid),
      .ready_o(fifo_ready),
      .data_i(beat_i.data),
      .valid_o(fifo_valid),
      .ready_i(fifo_pop),
      .data_o(fifo_data),
      .count_o(fifo_count)
  );

  logic job_valid, job_take;
  job_t job;
  logic [2:0] job_count;
  scanline_stream_fifo #(
      .Width($bits(job_t)),
      .Depth(4)
  ) u_jobs (
      .clk_i,
      .rst_ni,
      .valid_i((state_q == Issue) && !window_bad),
      .ready_o(job_ready),
      .data_i(job_q),
      .valid_o(job_valid),
      .ready_i(job_take),
      .data_o(job),
      .count_o(job_count)
  );

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      state_q   <= Idle;
      credits_q <= CreditBits'(LoadFifoBeats);
    end else begin
      unique case (state_q)
        Idle: if (cmd_valid_i) state_q <= Check;
        Check: begin
          if (is_weights_q) state_q <= Range;
          else if (skip_row) state_q <= Idle;
          else if (space) state_q <= Multiply;
        end
        Multiply: state_q <= Range;
        Range: state_q <= Issue;
        Issue: if (window_bad) state_q <= Idle;
        else if (job_ready) state_q <= Request;
        Request: if (next_q == end_q) state_q <= Idle;
        default: state_q <= Idle;
      endcase
      if (stop_i) state_q <= Idle;
      credits_q <= credits_q + CreditBits'(fifo_pop) - ((read_o.valid && read_ready_i) ? CreditBits'(burst_beats) : '0);
    end
  end

  always_ff @(posedge clk_i) begin
    unique case (state_q)
      Idle: begin
        is_weights_q <= cmd_is_weights_i;
        load_q <= cmd_load_i;
        weights_q <= cmd_weights_i;
      end
      Multiply: begin
        row_start_q <= load_q.address + 32'(buffer_i.next_row) * load_q.row_stride;
        span_q <= 33'(load_q.skip) + signed'({1'b0, 32'(load_q.x_count - 16'd1) * 32'(load_q.pixel_pitch)}) +
            33'(load_q.pixel_bytes);
      end
      Range: begin
        if (is_weights_q) begin
          first_byte_q <= weights_q.address;
          end_byte_q   <= weights_q.address + 32'(weights_q.byte_count);
        end else begin
          first_byte_q <= row_start_q + wanted_first[31:0];
          end_byte_q   <= row_start_q + wanted_end[31:0];
        end
        job_q.is_weights <= is_weights_q;
        job_q.kind <= weights_q.kind;
        job_q.lut <= weights_q.lut;
        job_q.destination <= weights_q.destination;
        job_q.gap <= weights_q.gap;
        job_q.elements <= weights_q.elements;
        job_q.buf_id <= buffer_id_o;
        job_q.row_address <= buffer_i.cfg.base + 16'(buffer_i.next_slot * buffer_i.cfg.row_pitch) +
            16'(16'(load_q.group) * buffer_i.cfg.group_pitch);
        job_q.group_pitch <= buffer_i.cfg.group_pitch;
        job_q.x_first <= load_q.x_first;
        job_q.x_end <= load_q.x_first + load_q.x_count;
        job_q.pixel_bytes <= load_q.pixel_bytes;
        job_q.pixel_pitch <= load_q.pixel_pitch;
        job_q.first <= 32'(load_q.skip);
        job_q.row_bytes <= signed'(load_q.row_bytes);
        job_q.zero_point <= buffer_i.cfg.zero_point;
        // Index `first` lies at this offset from the first beat (negative when the row starts left of the frame).
        job_q.offset <= is_weights_q ? '0
            : signed'(16'((row_start_q + wanted_first[31:0]) & 32'(BusBytes - 1))) + 16'(load_q.skip) -
              signed'(wanted_first[15:0]);
        if (is_weights_q) begin
          job_q.beats <= 32'(weights_q.byte_count) >> BusShift;
        end else begin
          job_q.beats <= (wanted_end == wanted_first) ? '0
              : (((row_start_q + wanted_end[31:0] + 32'(BusBytes - 1)) >> BusShift) -
                 ((row_start_q + wanted_first[31:0]) >> BusShift));
        end
      end
      Issue: begin
        next_q <= (first_byte_q >> BusShift) << BusShift;
        end_q <= (first_byte_q == end_byte_q) ? ((first_byte_q >> BusShift) << BusShift)
                                              : (((end_byte_q + 32'(BusBytes - 1)) >> BusShift) << BusShift);
      end
      Request: if (read_o.valid && read_ready_i) next_q <= burst_end;
      default: ;
    endcase
  end

  // Unpacking side -----------------------------------------------------------------------------------------------------
  logic active_q, lo_valid_q, hi_valid_q;
  job_t work_q;
  logic [BusBits-1:0] lo_q, hi_q;
  logic [31:0] left_q;                 // beats of this job still in flight or in the FIFO
  logic signed [31:0] rel_q, index_q;  // the word's first byte: offset from lo_q, index in the row
  logic [15:0] x_q, taken_q;           // pixel, channels taken of it
  logic [15:0] word_address_q;
  logic [23:0] element_q;

  // Elements of a LOADW: whole beats for weights, 8, 4 or 1 bytes for the rest.
  logic [7:0] element_bytes;
  always_comb begin
    unique case (work_q.kind)
      KindWeights: element_bytes = 8'(BusBytes);
      KindSteps, KindParameters, KindNorm: element_bytes = 8'd8;
      KindFills: element_bytes = 8'd4;
      default: element_bytes = 8'd1;
    endcase
  end

  logic ready_now, emit, last_element, last_pixel, pixel_ends, shift_beat, load_emit, ends;
  assign ready_now = active_q && (lo_valid_q || left_q == '0) && (hi_valid_q || left_q == '0) &&
      (rel_q < signed'(32'(BusBytes)));
  assign emit = ready_now && (work_q.is_weights ? element_ready_i : write_grant_i);
  assign load_emit = ready_now && !work_q.is_weights;
  assign pixel_ends = 32'(taken_q) + 32'(CiLanes) >= 32'(work_q.pixel_bytes);
  assign last_pixel = x_q + 16'd1 == work_q.x_end;
  assign last_element = element_q + 24'd1 == work_q.elements;
  assign ends = emit && (work_q.is_weights ? last_element : (pixel_ends && last_pixel));

  logic signed [31:0] advance, rel_next;
  always_comb begin
    if (work_q.is_weights) advance = 32'(element_bytes);
    else if (pixel_ends) advance = signed'(32'(work_q.pixel_pitch)) - signed'(32'(taken_q));
    else advance = signed'(32'(CiLanes));
    rel_next = emit ? rel_q + advance : rel_q;
  end
  assign shift_beat = active_q && !ends && (rel_next >= signed'(32'(BusBytes))) &&
      (lo_valid_q || left_q == '0) && (hi_valid_q || left_q == '0);

  // Bytes of the word; what lies outside the row, or past the pixel's channels, reads as the zero point.
  localparam int unsigned Pad = 2 * BusBytes;
  logic [8*(BusBytes*2+Pad)-1:0] beats;
  logic [8*CiLanes-1:0] raw;
  logic signed [31:0] at;
  always_comb begin
    beats = {hi_q, lo_q, {Pad{8'h00}}};
    at = rel_q + signed'(32'(Pad));
    raw = (8*CiLanes)'(beats >> (8 * at[7:0]));
    for (int unsigned j = 0; j < CiLanes; j++) begin
      logic signed [31:0] index;
      index = index_q + signed'(32'(j));
      write_o.data[8*j+:8] = raw[8*j+:8];
      if (index < 0 || index >= work_q.row_bytes || 32'(taken_q) + 32'(j) >= 32'(work_q.pixel_bytes)) begin
        write_o.data[8*j+:8] = work_q.zero_point;
      end
    end
  end
  assign write_o.valid = load_emit;
  assign write_o.address = word_address_q;
  assign write_o.x = x_q;

  assign element_o.valid = ready_now && work_q.is_weights;
  assign element_o.kind = work_q.kind;
  assign element_o.lut = work_q.lut;
  assign element_o.index = element_q;
  assign element_o.base = work_q.destination;
  assign element_o.data = lo_q >> (8 * rel_q[7:0]);

  assign weights_done_o = ends && work_q.is_weights;
  assign done_o.valid = ends && !work_q.is_weights;
  assign done_o.id = work_q.buf_id;
  assign job_take = !active_q;

  // Beats move up when the position passes the lower one, or to fill an empty place.
  logic want_hi, want_lo;
  assign want_lo = active_q && !lo_valid_q;
  assign want_hi = active_q && lo_valid_q && (!hi_valid_q || shift_beat);
  assign fifo_pop = fifo_valid && (left_q != '0) && (want_lo || want_hi);
  assign activity_o.weight_beat = fifo_pop && work_q.is_weights;
  assign activity_o.load_beat = fifo_pop && !work_q.is_weights;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      active_q   <= 1'b0;
      lo_valid_q <= 1'b0;
      hi_valid_q <= 1'b0;
      left_q     <= '0;
    end else begin
      if (job_take) begin
        active_q   <= job_valid;
        left_q     <= job.beats;
        lo_valid_q <= 1'b0;
        hi_valid_q <= 1'b0;
      end else begin
        if (fifo_pop) left_q <= left_q - 32'd1;
        if (want_lo) begin
          lo_valid_q <= fifo_pop;
        end else if (shift_beat) begin
          lo_valid_q <= hi_valid_q;
          hi_valid_q <= fifo_pop;
        end else if (fifo_pop) begin
          hi_valid_q <= 1'b1;
        end
        if (ends) active_q <= 1'b0;
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (job_take) begin
      work_q <= job;
      rel_q <= 32'(job.offset);
      index_q <= job.first;
      x_q <= job.x_first;
      taken_q <= '0;
      word_address_q <= job.row_address;
      element_q <= '0;
    end else begin
      rel_q <= shift_beat ? rel_next - signed'(32'(BusBytes)) : rel_next;
      if (want_lo) lo_q <= fifo_data;
      else if (shift_beat) lo_q <= hi_q;
      if (want_hi) hi_q <= fifo_data;
      if (emit && !work_q.is_weights) begin
        index_q <= index_q + advance;
        if (pixel_ends) begin
          x_q <= x_q + 16'd1;
          taken_q <= '0;
          word_address_q <= work_q.row_address;
        end else begin
          taken_q <= taken_q + 16'(CiLanes);
          word_address_q <= word_address_q + work_q.group_pitch;
        end
      end
      if (emit && work_q.is_weights) begin
        element_q <= element_q + 24'd1;
        if (32'(element_q) % WeightParts == WeightParts - 1) work_q.destination <= work_q.destination + work_q.gap;
      end
    end
  end

  assign activity_o.busy = (state_q != Idle) || (job_count != '0) || active_q || (fifo_count != '0);

  logic unused;
  assign unused = fifo_ready;  // credits see to it; the assertion below looks

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  `SCANLINE_HANDSHAKE(Read, read_o.valid, read_ready_i, ({read_o.offset, read_o.len}), stop_i)
  `SCANLINE_HANDSHAKE(Job, ((state_q == Issue) && !window_bad), job_ready, job_q, stop_i)
  `SCANLINE_HANDSHAKE(Word, write_o.valid, write_grant_i, write_o, 1'b0)
  `SCANLINE_HANDSHAKE(Element, element_o.valid, element_ready_i, element_o, 1'b0)
  logic [31:0] check_flying_q;  // beats asked for that have not come
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) check_flying_q <= '0;
    else check_flying_q <= check_flying_q + ((read_o.valid && read_ready_i) ? burst_beats : '0) - 32'(beat_i.valid);
  end
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(StateKnown, state_q <= Request)
      `SCANLINE_ASSERT(CreditBound, stop_i || (32'(credits_q) <= LoadFifoBeats))
      // A request that a stop withdraws may have been taken by the arbiter: its data still comes.
      `SCANLINE_ASSERT(CreditsBalance, stop_i || (32'(credits_q) + 32'(fifo_count) + check_flying_q == LoadFifoBeats))
      `SCANLINE_ASSERT(BeatFits, !beat_i.valid || stop_i || fifo_ready)
      `SCANLINE_ASSERT(BeatAsked, !beat_i.valid || stop_i || (check_flying_q != '0))
      `SCANLINE_ASSERT(BurstAligned, !read_o.valid || (32'(read_o.offset) % BusBytes == 0))
      `SCANLINE_ASSERT(BurstInWindow, !read_o.valid || (read_o.offset < memory_bytes_i))
      `SCANLINE_ASSERT(BurstBound, !read_o.valid ||
          ((read_o.offset >> BurstShift) == ((read_o.offset + 32'(read_o.len) * BusBytes) >> BurstShift)))
      `SCANLINE_ASSERT(BurstsEnd, (state_q != Request) || (next_q <= end_q))
      `SCANLINE_ASSERT(BeatWanted, !fifo_pop || (left_q != '0))
      `SCANLINE_ASSERT(BytesAhead, !ready_now || (at >= 0))
      `SCANLINE_ASSERT(ElementInCommand, !element_o.valid || (element_q < work_q.elements))
      `SCANLINE_ASSERT(PixelInRow, !write_o.valid || (x_q < work_q.x_end))
      `SCANLINE_ASSERT(BeatsUsed, !ends || (left_q == '0))
    end
  end
`endif
endmodule
